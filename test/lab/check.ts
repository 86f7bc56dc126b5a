// node test/lab/check.ts: shows whether this machine can run the lab, by running all of it once: each part is
// started, killed and started again, and a container goes through LXD's own export and import.
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { type Lab, openLab } from './lab.ts';

const say = (line: string) => console.log(`${(performance.now() / 1_000).toFixed(1).padStart(6)} s  ${line}`);

/** Exports the container, imports it under another name, and says what came back different: nothing should. */
async function roundTrip(lxd: NonNullable<Lab['lxd']>, pool: string): Promise<void> {
  const [original, copy] = [`check-${pool}`, `check-${pool}-copy`];
  await lxd.launch(original, { pool, dataMiB: 64 });
  const before = await lxd.fingerprint(original);
  say(`launched a container on ${pool}: ${before.size} files and folders`);
  const file = join(lxd.dir, 'check.tar');
  await lxd.lxc(['export', original, file, '--compression', 'none']);
  await lxd.lxc(['import', file, copy, '--storage', pool]);
  await rm(file);
  const after = await lxd.fingerprint(copy);
  const differing = [...new Set([...before.keys(), ...after.keys()])].filter(
    (path) => before.get(path) !== after.get(path),
  );
  for (const path of differing) say(`  ${path}: ${before.get(path)} became ${after.get(path)}`);
  if (differing.length > 0)
    throw new Error(`lxc export and import on ${pool} changed ${differing.length} of ${before.size}`);
  say('exported and imported it: nothing differs');
  await lxd.lxc(['start', copy]);
}

{
  await using lab = await openLab({ name: 'check', log: say });
  if (lab.lxd) {
    for (const pool of [lab.lxd.pool, lab.lxd.dirPool]) await roundTrip(lab.lxd, pool);
  }
  const mayBeKilled = process.env.LXSTOW_LAB_LXD_SOCKET ? [lab.nats, lab.s3] : [lab.nats, lab.s3, lab.lxd];
  for (const part of mayBeKilled) {
    await part?.kill('SIGKILL');
    await part?.start();
  }
  say('killed every part and started it again');
}
say('removed everything: this machine can run the lab');
