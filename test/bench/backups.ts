/** Ways to bring an instance into a bucket: lxstow's, what people do without it, and the limits of the parts themselves. */
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { mapInOrder } from '../../services/concurrency/orderedMap.ts';
import { openExport } from '../../services/lxd/archives/exports.ts';
import { onPath } from '../lab/findPart.ts';
import { run } from '../lab/run.ts';
import { type LabS3, s3Titles } from '../lab/s3.ts';
import { type Cost, measure, measureShell } from './measure.ts';
import type { Contender, Place } from './place.ts';

/** One way. `run` leaves nothing behind, and what it does for that is not measured. */
export interface Way {
  name: string;
  run(instance: string): Promise<Cost & { storedBytes?: number }>;
}

const never = new AbortController().signal;
const mib = 1024 * 1024;
const partBytes = 16 * mib;
const partsInFlight = 4;
const key = 'bench/object';

export function backupWays(place: Place, { lxmin }: { lxmin?: string | undefined }): Way[] {
  const ways = [
    lxdAlone(place),
    multipartFromMemory(place),
    onePut(place),
    ...lxstowWays(place, (contender, compression) => lxstow(place, contender, compression)),
    minioJs(place),
  ];
  if (place.mc) ways.push(mcPipe(place, place.mc));
  if (place.rclone && onPath('zstd')) ways.push(rclone(place, place.rclone));
  if (lxmin) ways.push(lxminBackup(place, lxmin));
  return ways;
}

/** One way for each compression, of the place's own lxstow and of those beside it. */
export function lxstowWays(place: Place, way: (contender: Contender, compression: string) => Way['run']): Way[] {
  return ['none', 'gzip', 'zstd'].flatMap((compression) =>
    [place, ...place.beside].map((contender) => ({
      name: `lxstow, ${compression}${contender.difference ? ` (${contender.difference})` : ''}`,
      run: way(contender, compression),
    })),
  );
}

function lxstow({ bucket, s3 }: Place, { stow, done, workerPid }: Contender, compression: string): Way['run'] {
  return async (instance) => {
    let name = '';
    const cost = await measure(async () => {
      const path = `/1.0/instances/${instance}/backups?compression=${compression}`;
      name = await done(await stow.request('POST', path));
    }, workerPid());
    const { size } = await bucket.statObject(s3.bucket, `local/default/${instance}/${name}`);
    await stow.request('DELETE', `/1.0/instances/${instance}/backups/${name}`);
    return { ...cost, storedBytes: size };
  };
}

/** How fast LXD makes and sends its archive, to nobody. */
function lxdAlone(place: Place): Way {
  return {
    name: 'LXD alone: create',
    async run(instance) {
      const created = await measure(() => place.lxdBackup(instance, 'bench'));
      await place.dropLxdBackup(instance, 'bench');
      return created;
    },
  };
}

/** The export of a backup that is there, to /dev/null. */
export function lxdExport(place: Place): Way {
  return {
    name: 'LXD alone: export',
    async run(instance) {
      await place.lxdBackup(instance, 'bench');
      const cost = await measureShell(`${exportOf(place, instance)} -o /dev/null`);
      await place.dropLxdBackup(instance, 'bench');
      return cost;
    },
  };
}

export function storeAlone({ kind }: Pick<LabS3, 'kind'>): string {
  return `${s3Titles[kind]} alone: parts from memory`;
}

/** The most that the store takes: as many bytes out of memory, in parts, several at a time. */
function multipartFromMemory({ store, s3, api, lxd, lxdBackup, dropLxdBackup }: Place): Way {
  const body = randomBytes(partBytes);
  const sum = Buffer.alloc(4);
  sum.writeUInt32BE(crc32(body));
  const checksum = sum.toString('base64');
  let size: number | undefined;
  return {
    name: storeAlone(s3),
    async run(instance) {
      size ??= await sizeOf(instance);
      const count = Math.max(1, Math.round(size / partBytes));
      const upload = await store.beginUpload(key, { tags: {}, contentType: 'application/x-tar' }, never);
      const cost = await measure(async () => {
        const put = async (number: number) => ({
          number,
          etag: await store.putPart(upload, number, body, checksum, never),
          crc32: checksum,
        });
        const parts = [];
        for await (const part of mapInOrder(upTo(count), partsInFlight, put)) parts.push(part);
        await store.completeUpload(upload, parts, never);
      });
      await store.remove(key, never);
      return cost;
    },
  };

  async function sizeOf(instance: string): Promise<number> {
    await lxdBackup(instance, 'bench');
    const address = { remote: 'local', project: lxd.project, instance };
    const { size: bytes, source } = await openExport(api, address, 'bench', never);
    source.destroy();
    await dropLxdBackup(instance, 'bench');
    return bytes;
  }
}

async function* upTo(count: number): AsyncGenerator<number> {
  for (let number = 1; number <= count; number++) yield number;
}

/** The archive as a file, by one PUT. */
function onePut(place: Place): Way {
  return {
    name: 'curl: one PUT from a file',
    async run(instance) {
      const file = join(place.folder, 'archive.tar');
      await saveExport(place, instance, file);
      const url = await place.bucket.presignedPutObject(place.s3.bucket, key, 3600);
      const cost = await measureShell(`curl -sSf -T '${file}' '${url}'`);
      await place.store.remove(key, never);
      return cost;
    },
  };
}

/** LXD's backup, and its export into a pipe: `sink` takes the archive as the object `key`. */
function piped(place: Place, name: string, sink: string, env: NodeJS.ProcessEnv): Way {
  return {
    name,
    async run(instance) {
      const begun = performance.now();
      await place.lxdBackup(instance, 'bench');
      const createdS = (performance.now() - begun) / 1000;
      const cost = await measureShell(`${exportOf(place, instance)} | ${sink}`, env);
      await place.dropLxdBackup(instance, 'bench');
      await place.store.remove(key, never);
      return { ...cost, wallS: createdS + cost.wallS };
    },
  };
}

/** What many do. */
function mcPipe(place: Place, mc: string): Way {
  const sink = `'${mc}' --quiet pipe bench/${place.s3.bucket}/${key} >/dev/null`;
  return piped(place, 'export | mc pipe', sink, mcEnv(place));
}

/** mc knows the store as `bench`. */
export function mcEnv({ s3, folder }: Place): NodeJS.ProcessEnv {
  const host = new URL(s3.endpoint);
  host.username = s3.accessKey;
  host.password = s3.secretKey;
  return { MC_HOST_bench: host.href.replace(/\/$/, ''), MC_CONFIG_DIR: join(folder, 'mc') };
}

function rclone(place: Place, command: string): Way {
  const { bucket, endpoint, accessKey, secretKey } = place.s3;
  return piped(place, 'export | zstd | rclone rcat', `zstd -q -3 -T0 | '${command}' rcat bench:${bucket}/${key}`, {
    RCLONE_CONFIG_BENCH_TYPE: 's3',
    RCLONE_CONFIG_BENCH_PROVIDER: place.s3.kind === 'minio' ? 'Minio' : 'Other',
    RCLONE_CONFIG_BENCH_ENDPOINT: endpoint,
    RCLONE_CONFIG_BENCH_ACCESS_KEY_ID: accessKey,
    RCLONE_CONFIG_BENCH_SECRET_ACCESS_KEY: secretKey,
    // Debian's cannot be told of one.
    AWS_CA_BUNDLE: '',
  });
}

/** The library that lxstow uses, as most use it. */
function minioJs(place: Place): Way {
  return {
    name: 'minio-js: putObject of the export',
    async run(instance) {
      const cost = await measure(async () => {
        await place.lxdBackup(instance, 'bench');
        const { outgoing, answer } = place.api.open({
          path: `/1.0/instances/${instance}/backups/bench/export`,
          query: { project: place.lxd.project },
          signal: never,
        });
        outgoing.end();
        const stream = await answer;
        await place.bucket.putObject(place.s3.bucket, key, stream, Number(stream.headers['content-length']));
      });
      await place.dropLxdBackup(instance, 'bench');
      await place.store.remove(key, never);
      return cost;
    },
  };
}

export function lxminEnv({ s3, lxd, folder }: Place): NodeJS.ProcessEnv {
  return {
    LXMIN_ENDPOINT: s3.endpoint,
    LXMIN_BUCKET: s3.bucket,
    LXMIN_ACCESS_KEY: s3.accessKey,
    LXMIN_SECRET_KEY: s3.secretKey,
    LXMIN_STAGING_ROOT: join(folder, 'staging'),
    TMPDIR: join(folder, 'staging'),
    LXD_DIR: lxd.dir,
    LXD_SOCKET: lxd.socket,
  };
}

/** lxmin shows a progress bar, and wants a terminal for it. */
export function lxminLine(lxmin: string, args: string): string {
  return `script -qec '${lxmin} ${args}' /dev/null`;
}

function lxminBackup(place: Place, lxmin: string): Way {
  return {
    name: 'lxmin backup',
    async run(instance) {
      const cost = await measureShell(lxminLine(lxmin, `backup ${instance}`), lxminEnv(place));
      for await (const { name } of place.bucket.listObjectsV2(place.s3.bucket, `${instance}/`, true))
        await place.bucket.removeObject(place.s3.bucket, name);
      return cost;
    },
  };
}

/** The archive of the instance, as LXD makes it, in a file. */
export async function saveExport(place: Place, instance: string, file: string): Promise<void> {
  await place.lxdBackup(instance, 'bench');
  await run('bash', ['-c', `${exportOf(place, instance)} -o '${file}'`]);
  await place.dropLxdBackup(instance, 'bench');
}

/** Reads a backup in LXD by its socket: to be followed by `-o FILE`, or by a pipe. */
export function exportOf({ lxd }: Place, instance: string): string {
  return `curl -sSf --unix-socket '${lxd.socket}' http://lxd/1.0/instances/${instance}/backups/bench/export`;
}
