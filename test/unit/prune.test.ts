/** docs/homelab.md's lxstow-prune: it deletes what is old, and nothing where it cannot know. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';

const page = readFileSync(new URL('../../docs/homelab.md', import.meta.url), 'utf8');
const [, script = ''] = /cat >lxstow-prune <<'END'\n(.*?)\nEND\n/s.exec(page) ?? [];
const noJq = { skip: spawnSync('jq', ['--version']).status !== 0 && 'there is no jq' };

const backup = (instance: string, name: string, created: string) => ({ instance, name, created });
const list = [
  backup('a', 'old', '2020-01-01T00:00:00Z'),
  backup('a', 'kept', '2020-01-02T00:00:00Z'),
  backup('a', 'newer', new Date().toISOString()),
  backup('a', 'last', new Date().toISOString()),
  backup('b', 'only', '2020-01-01T00:00:00Z'),
];
/** Says what it deletes; the command in FAIL fails. */
const fake = `#!/bin/sh
[ "$1" = "$FAIL" ] && exit 69
case $1 in
list) echo '${JSON.stringify(list)}' ;;
info) [ "$3" = kept ] && echo '{"tags":{"keep":"yes"}}' || printf %s "$INFO" ;;
delete) echo "$2/$3" ;;
esac
`;

describe("the home lab's prune script", noJq, () => {
  const folder = mkdtempSync(join(tmpdir(), 'lxstow-prune-'));
  after(() => rmSync(folder, { recursive: true }));
  for (const [name, text] of [
    ['lxstow', fake],
    ['prune', script],
  ] as const) {
    writeFileSync(join(folder, name), text);
    chmodSync(join(folder, name), 0o755);
  }
  const prune = (variables: { FAIL?: string; INFO?: string } = {}) => {
    const env = { PATH: `${folder}:${process.env.PATH}`, INFO: '{"tags":{}}', ...variables };
    const { status, stdout } = spawnSync(join(folder, 'prune'), ['14'], { env });
    return [status === 0, stdout.toString().trim()];
  };

  it('deletes what is old, but nothing tagged keep, and no last one', () => {
    assert.deepEqual(prune(), [true, 'a/old']);
  });

  it('deletes nothing, and fails, where a list or the tags cannot be had', () => {
    for (const variables of [{ FAIL: 'list' }, { FAIL: 'info' }, { INFO: '' }, { INFO: '{}' }, { INFO: 'no JSON' }])
      assert.deepEqual(prune(variables), [false, ''], JSON.stringify(variables));
  });

  it('stops at a deletion that fails', () => {
    assert.deepEqual(prune({ FAIL: 'delete' }), [false, '']);
  });
});
