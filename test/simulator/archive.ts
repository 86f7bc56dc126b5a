/** Archives as LXD lays them out, packed and unpacked with GNU tar, which LXD itself unpacks with. */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { stringify } from 'yaml';
import { attempt, run } from '../lab/run.ts';
import type { Instance, State } from './state.ts';

const tarOptions = ['--numeric-owner', '--xattrs', '--xattrs-include=*'];

interface PackOptions {
  optimized: boolean;
  instanceOnly: boolean;
  /** A program, or `none`. */
  compression: string;
  /** False: without the volumes' backup.yaml. */
  backupYaml: boolean;
  signal: AbortSignal;
}

/** Writes the instance's backup into the file: its index first, its snapshots, itself. */
export async function pack(
  state: State,
  instance: Instance,
  index: (snapshots: string[]) => object,
  file: string,
  { optimized, instanceOnly, compression, backupYaml, signal }: PackOptions,
): Promise<void> {
  const snapshots = instanceOnly ? [] : instance.snapshots;
  const staging = await mkdtemp(join(state.dir, 'backups/lxd_staging_'));
  try {
    const folder = join(staging, 'backup');
    await mkdir(join(folder, 'snapshots'), { recursive: true });
    await writeFile(join(folder, 'index.yaml'), stringify(index(snapshots)));
    const volumes = [
      ...snapshots.map((name) => [`snapshots/${name}`, state.snapshotVolume(instance, name)] as const),
      ['container', state.volume(instance)] as const,
    ];
    const contents = optimized
      ? await streams(volumes, folder, signal)
      : plain(volumes, join(state.dir, 'storage-pools', instance.pool), backupYaml);
    const compress = compression === 'none' ? [] : ['--use-compress-program', compression];
    await tar([...compress, '-cf', file, '-C', staging, 'backup/index.yaml', ...contents], signal);
  } finally {
    await rm(staging, { recursive: true });
  }
}

/** Arguments for tar that pack the volumes as they are, under the names that they have in a backup. */
function plain(volumes: (readonly [string, string])[], pool: string, backupYaml: boolean): string[] {
  const paths = volumes.map(([name, volume]) => [name, relative(pool, volume)] as const);
  return [
    '--sort=name',
    '--format=posix',
    '--pax-option=delete=atime,delete=ctime,delete=mtime',
    // Names (r) and the targets of hard links (h), but not those of symbolic links (S).
    ...paths.map(([name, path]) => `--transform=flags=rhS;s,^${path}\\(/\\|$\\),backup/${name}\\1,`),
    ...(backupYaml ? [] : ['--anchored', ...paths.map(([, path]) => `--exclude=${path}/backup.yaml`)]),
    ...['-C', pool],
    ...paths.map(([, path]) => path),
  ];
}

/** The volumes as the driver's own streams, which here are gzipped tars: like a btrfs stream, one that is damaged is noticed. */
async function streams(volumes: (readonly [string, string])[], folder: string, signal: AbortSignal): Promise<string[]> {
  await writeFile(
    join(folder, 'optimized_header.yaml'),
    stringify({ subvolumes: volumes.map(([path]) => ({ path })) }),
  );
  for (const [name, volume] of volumes)
    await tar(['--use-compress-program', 'gzip -1', '-cf', join(folder, `${name}.bin`), '-C', volume, '.'], signal);
  return ['backup/optimized_header.yaml', ...volumes.map(([name]) => `backup/${name}.bin`)];
}

async function tar(args: string[], signal: AbortSignal): Promise<void> {
  await run('tar', [...tarOptions, ...args], { signal });
}

/** The text of the archive's index. Undefined when it has none; throws when it is cut. */
export async function readIndex(archive: string, signal: AbortSignal): Promise<string | undefined> {
  const args = ['-xOf', archive, '--occurrence=1', 'backup/index.yaml'];
  const { status, stdout, stderr } = await attempt('tar', args, { signal });
  if (status === 0) return stdout.toString();
  if (stderr.includes('Unexpected EOF')) throw new Error('unexpected EOF');
  return undefined;
}

/** Unpacks what the archive has under `backup/<name>` into a new folder. Throws with LXD's text. */
export async function unpack(
  archive: string,
  name: string,
  folder: string,
  optimized: boolean,
  signal: AbortSignal,
): Promise<void> {
  await mkdir(folder, { recursive: true });
  if (!optimized) {
    const depth = `--strip-components=${name.split('/').length + 1}`;
    const args = ['-xpf', archive, ...tarOptions, '--force-local', '-C', folder, depth, `backup/${name}`];
    const { status, stderr } = await attempt('tar', args, { signal });
    if (status !== 0) throw new Error(`Error starting unpack: ${failure(['tar', ...args], status, stderr)}`);
    return;
  }
  const streams = await mkdtemp(join(dirname(archive), 'lxd_stream_'));
  try {
    const stream = `backup/${name}.bin`;
    for (const args of [
      ['-xf', archive, '-C', streams, stream],
      ['-xpzf', join(streams, stream), ...tarOptions, '-C', folder],
    ]) {
      const { status, stderr } = await attempt('tar', args, { signal });
      if (status !== 0) throw new Error(failure(['btrfs', 'receive', '-e', folder], status, stderr));
    }
  } finally {
    await rm(streams, { recursive: true });
  }
}

function failure(command: string[], status: number, stderr: string): string {
  return `Failed to run: ${command.join(' ')}: Process exited with non-zero value ${status} (${stderr.trim()})`;
}
