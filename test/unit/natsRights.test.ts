/** `lxstow doctor` tries each right that nats.conf gives to a role, and no other. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { loadConfig } from '../../services/contract/config.ts';
import { probesOf } from '../../services/doctor/natsRights.ts';

const text = readFileSync(new URL('../../nats.conf', import.meta.url), 'utf8').replaceAll(/^ *#.*/gm, '');
const config = loadConfig({ env: { LXSTOW_S3_ACCESS_KEY: 'a', LXSTOW_S3_SECRET_KEY: 'b' } });
/** Doctor tries these by using them: it compares what `lxstow setup` has created, and gets answers. */
const used = /^\$JS\.API\.(INFO|(STREAM|CONSUMER)\.INFO\..*)$|^_INBOX_/;

function rightsOf(role: string, kind: 'publish' | 'subscribe'): string[] {
  const [, list = ''] =
    new RegExp(`user: "${role}".*?${kind}: \\[(.*?)\\]`, 's').exec(text) ?? assert.fail(`no ${kind} of ${role}`);
  return [...list.matchAll(/"([^"]+)"/g)].map(([, subject = '']) => subject).filter((subject) => !used.test(subject));
}

function fits(subject: string, right: string): boolean {
  const words = subject.split('.');
  const allowed = right.split('.');
  return (
    allowed.every((word, at) => (word === '>' ? words.length > at : word === '*' || word === words[at])) &&
    (allowed.at(-1) === '>' || allowed.length === words.length)
  );
}

describe('the rights of a user of NATS', () => {
  for (const role of ['gateway', 'worker'] as const)
    for (const kind of ['publish', 'subscribe'] as const)
      it(`to ${kind} as a ${role} are tried, each of them`, () => {
        const probes = probesOf(role, config);
        const subjects = kind === 'subscribe' ? probes.subscribe : probes.publish.map(({ subject }) => subject);
        const rights = rightsOf(role, kind);
        assert.ok(rights.length > 2);
        const untried = rights.filter((right) => !subjects.some((subject) => fits(subject, right)));
        assert.deepEqual(untried, []);
        const tooMany = subjects.filter((subject) => !rights.some((right) => fits(subject, right)));
        assert.deepEqual(tooMany, []);
      });
});
