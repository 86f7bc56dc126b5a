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

const backup = (instance: string, name: string, created: string, tags: object | undefined = {}) => ({
  ...{ instance, name, created, tags },
});
const list = [
  backup('a', 'old', '2020-01-01T00:00:00Z'),
  backup('a', 'kept', '2020-01-02T00:00:00Z', { keep: 'yes' }),
  backup('a', 'newer', new Date().toISOString()),
  backup('a', 'last', new Date().toISOString()),
  backup('b', 'only', '2020-01-01T00:00:00Z'),
];
/** Says what it deletes; the command in FAIL fails, and LIST is what there is. */
const fake = `#!/bin/sh
[ "$1" = "$FAIL" ] && exit 69
case $1 in
list) printf %s "$LIST" ;;
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
  const prune = (variables: { FAIL?: string; LIST?: string } = {}) => {
    const env = { PATH: `${folder}:${process.env.PATH}`, LIST: JSON.stringify(list), ...variables };
    const { status, stdout } = spawnSync(join(folder, 'prune'), ['14'], { env });
    return [status === 0, stdout.toString().trim()];
  };

  it('deletes what is old, but nothing tagged keep, and no last one', () => {
    assert.deepEqual(prune(), [true, 'a/old']);
  });

  it('deletes nothing where the list cannot be had, or has no tags', () => {
    assert.deepEqual(prune({ FAIL: 'list' }), [false, '']);
    assert.deepEqual(prune({ LIST: 'no JSON' })[1], '');
    const untold = list.map(({ tags: _, ...rest }) => rest);
    assert.deepEqual(prune({ LIST: JSON.stringify(untold) }), [true, '']);
  });

  it('stops at a deletion that fails', () => {
    assert.deepEqual(prune({ FAIL: 'delete' }), [false, '']);
  });
});
