/** Ways to bring an instance back: lxstow's, and what people do without it. */
import { join } from 'node:path';
import { run } from '../lab/run.ts';
import { exportOf, lxminEnv, lxminLine, lxstowWays, mcEnv, saveExport, type Way } from './backups.ts';
import { measure, measureShell } from './measure.ts';
import type { Contender, Place } from './place.ts';

const target = 'again';

export function restoreWays(place: Place, { lxmin }: { lxmin?: string | undefined }): Way[] {
  const ways = [
    lxcImport(place),
    ...lxstowWays(place, (contender, compression) => lxstow(place, contender, compression)),
  ];
  if (place.mc) ways.push(mcCat(place, place.mc));
  if (lxmin) ways.push(lxminRestore(place, lxmin));
  return ways;
}

function lxstow(place: Place, { stow, done, workerPid }: Contender, compression: string): Way['run'] {
  let backup: string | undefined;
  return async (instance) => {
    const path = `/1.0/instances/${instance}/backups`;
    backup ??= await done(await stow.request('POST', `${path}?compression=${compression}`));
    const cost = await measure(async () => {
      await done(await stow.request('POST', `${path}/${backup}`, { body: { name: target } }));
    }, workerPid());
    await dropTarget(place);
    return cost;
  };
}

/** An uncompressed archive that is on the disk already: nothing can be faster with this LXD. */
function lxcImport(place: Place): Way {
  const file = join(place.folder, 'import.tar');
  return {
    name: 'lxc import from a file',
    async run(instance) {
      await saveExport(place, instance, file);
      const cost = await measureShell(`lxc -q import '${file}' ${target}`, lxcEnv(place));
      await dropTarget(place);
      return cost;
    },
  };
}

function mcCat(place: Place, mc: string): Way {
  return {
    name: 'mc cat | lxc import',
    async run(instance) {
      const env = { ...lxcEnv(place), ...mcEnv(place) };
      const object = `bench/${place.s3.bucket}/bench/archive.tar`;
      await place.lxdBackup(instance, 'bench');
      await run('bash', ['-c', `${exportOf(place, instance)} | '${mc}' --quiet pipe ${object}`], {
        env: { ...process.env, ...env },
      });
      await place.dropLxdBackup(instance, 'bench');
      const cost = await measureShell(`'${mc}' --quiet cat ${object} | lxc -q import - ${target}`, env);
      await dropTarget(place);
      return cost;
    },
  };
}

/** lxmin gives the instance its own name back: the instance is copied, the copy backed up, deleted and restored. */
function lxminRestore(place: Place, lxmin: string): Way {
  return {
    name: 'lxmin restore',
    async run(instance) {
      const env = lxminEnv(place);
      await place.lxd.lxc(['copy', instance, target]);
      await measureShell(lxminLine(lxmin, `backup ${target}`), env);
      await dropTarget(place);
      const names: string[] = [];
      for await (const { name } of place.bucket.listObjectsV2(place.s3.bucket, `${target}/`, true)) names.push(name);
      const backup =
        names
          .find((name) => name.includes('_instance'))
          ?.split('/')[1]
          ?.replace(/_instance.*/, '') ?? '';
      const cost = await measureShell(lxminLine(lxmin, `restore ${target} ${backup}`), env);
      await dropTarget(place);
      for (const name of names) await place.bucket.removeObject(place.s3.bucket, name);
      return cost;
    },
  };
}

function lxcEnv({ lxd }: Place): NodeJS.ProcessEnv {
  return { LXD_DIR: lxd.dir, LXD_SOCKET: lxd.socket };
}

async function dropTarget({ lxd }: Place): Promise<void> {
  await lxd.lxc(['delete', '--force', target]);
}
