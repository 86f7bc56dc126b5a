/** What pages say of what others define: docs/troubleshooting.md of error codes, docs/nats.md of fields. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { it } from 'node:test';
import natsApi from '../../schemas/nats-api.json' with { type: 'json' };
import { errorCodes, LxstowError } from '../../services/contract/errors.ts';

it('docs/troubleshooting.md has each code once, with its HTTP status and whether it is tried again', async () => {
  const page = await readFile(new URL('../../docs/troubleshooting.md', import.meta.url), 'utf8');
  const rows = [...page.matchAll(/^\| `([a-z0-9-]+)` \| (\d+) \| (yes|no) \| [^|]+ \| [^\n]+ \|$/gm)];
  const described = rows.map(([, code, status, again]) => `${code} ${status} ${again}`);
  const known = errorCodes.map((code) => {
    const { status, repeatable } = new LxstowError(code, '');
    return `${code} ${status} ${repeatable ? 'yes' : 'no'}`;
  });
  assert.deepEqual(described.toSorted(), known.toSorted());
});

it('docs/nats.md names no field of an answer that there is not', async () => {
  const page = await readFile(new URL('../../docs/nats.md', import.meta.url), 'utf8');
  const { backupPage, listedBackup, backup, statusPage, instanceStatus, operationPage } = natsApi.$defs;
  const answers: [subject: string, ...parts: { properties: object }[]][] = [
    ['backups.list', backupPage, listedBackup],
    ['backups.show', listedBackup, backup],
    ['status.list', statusPage, instanceStatus],
    ['operations.list', operationPage],
  ];
  for (const [subject, ...parts] of answers) {
    const row = page.split('\n').find((line) => line.startsWith(`| \`${subject}.<remote>.<project>`)) ?? '';
    const named = [...(row.split(' | ')[2] ?? '').matchAll(/`([a-z_]+)`/g)].map(([, field = '']) => field);
    assert.ok(named.length > 1, subject);
    const known = parts.flatMap(({ properties }) => Object.keys(properties));
    assert.deepEqual(
      named.filter((field) => !known.includes(field)),
      [],
      subject,
    );
  }
});
