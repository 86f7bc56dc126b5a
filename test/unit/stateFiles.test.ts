/** Files that standalone and the commands beside it share. */
import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { ownSecret, readOwn } from '../../services/cli/standalone/stateFiles.ts';

const dir = mkdtempSync(join(tmpdir(), 'lxstow-state-'));

describe('a secret of standalone', () => {
  it('is made once, also by several at a time, and for its owner alone', async () => {
    const file = join(dir, 'store', 'secret');
    const [first = '', ...others] = await Promise.all([ownSecret(file), ownSecret(file), ownSecret(file)]);
    assert.match(first, /^[0-9a-f]{48}$/);
    assert.deepEqual([...others, await ownSecret(file)], [first, first, first]);
    assert.equal(statSync(file).mode & 0o777, 0o600);
    assert.deepEqual(readdirSync(join(dir, 'store')), ['secret']);
  });

  it('is not empty where a full disk once left an empty file', async () => {
    const file = join(dir, 'empty');
    writeFileSync(file, '');
    assert.match(await ownSecret(file), /^[0-9a-f]{48}$/);
  });
});

describe('what standalone has written', () => {
  it('is nothing where it has not run, and says so when it cannot be read', () => {
    assert.equal(readOwn(join(dir, 'none'), 'the key'), undefined);
    assert.throws(() => readOwn(dir, 'the key'), /^LxstowError: the key: cannot read .*: run this command as the user/);
  });
});
