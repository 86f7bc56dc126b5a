/** What is lxmin's in a bucket, by the names of the objects alone. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { backupName } from '../../services/contract/backupNames.ts';
import { isOf, readLayout, timeInName } from '../../services/lxmin/layout.ts';

const name = 'backup_2022-02-17-09-3329';

function read(...keys: string[]) {
  const objects = keys.map((key) => ({ key, size: 1, etag: 'e', modified: '2022-02-17T09:34:44.868Z' }));
  const { backups, foreign } = readLayout(objects);
  return { backups, foreign: foreign.map(({ key }) => key) };
}

describe("lxmin's layout", () => {
  it('is an archive, and a file for each profile, in their order', () => {
    const { backups, foreign } = read(
      `u2/${name}_instance.tar.gz`,
      `u2/${name}_profile_001_my_web.yaml`,
      `u2/${name}_profile_000_default.yaml`,
    );
    assert.deepEqual(foreign, []);
    assert.deepEqual(
      backups.map(({ instance, name, archive, profiles }) => [
        instance,
        name,
        archive?.key,
        profiles.map((profile) => `${profile.number} ${profile.name}`),
      ]),
      [['u2', name, `u2/${name}_instance.tar.gz`, ['0 default', '1 my_web']]],
    );
  });

  it('was an archive alone until v0.1.3', () => {
    assert.equal(read(`u2/${name}.tar.gz`).backups[0]?.archive?.key, `u2/${name}.tar.gz`);
  });

  it('may have no archive, or another time zone', () => {
    const { backups } = read(`u2/${name}_profile_000_default.yaml`, 'u2/backup_2022-02-17-10-0000_instance.tar.gz');
    assert.deepEqual(
      backups.map(({ archive, profiles }) => [archive !== undefined, profiles.length]),
      [
        [false, 1],
        [true, 0],
      ],
    );
  });

  it('has nothing to do with anything else, lxstow itself included', () => {
    const others = [
      'notes.txt',
      `${name}_instance.tar.gz`,
      `u2/${name}_instance.tar`,
      `u2/${name}_instance.tar.gz.part`,
      `u2/${name}_profile_000_.yaml`,
      `local/default/u2/${name}.tar.gz`,
      `local/default/u2/${name}.tar.gz.manifest.json`,
      'u2/backup_2022-02-17_instance.tar.gz',
      '.index/local/default.json.gz',
    ];
    assert.deepEqual(read(...others), { backups: [], foreign: others });
  });

  it('names an instance with its remote, or without', () => {
    const [backup] = read(`oslo:u2/${name}_instance.tar.gz`).backups;
    assert.ok(backup);
    assert.deepEqual(
      ['u2', 'oslo:u2', '2', 'oslo'].map((each) => isOf(backup, each)),
      [true, true, false, false],
    );
  });

  it('has a time in its names that keeps them', () => {
    const time = timeInName(name);
    assert.ok(time);
    assert.equal(backupName(time, 'gzip'), `${name}.tar.gz`);
    assert.equal(timeInName('backup_2022-02-17-25-3329'), undefined);
  });
});
