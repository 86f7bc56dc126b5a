/** An S3 server that holds no backup, only knows which there would be: it lists a million, and makes each manifest when it is read. */
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import { buffer } from 'node:stream/consumers';
import { IndexDraft } from '../../services/backups/backupIndex.ts';
import { indexKey } from '../../services/backups/keys.ts';
import { parseManifest } from '../../services/backups/manifest.ts';
import { summarise } from '../../services/backups/summaries.ts';
import { LxstowError } from '../../services/contract/errors.ts';
import type { ObjectStore } from '../../services/storage/objectStore.ts';
import { createLogger } from '../../services/telemetry/logger.ts';
import type { LabS3 } from '../lab/s3.ts';

export const place = { remote: 'local', project: 'default' };
const perInstance = 100;
const batch = 5000;

interface ListedStore extends AsyncDisposable, Pick<LabS3, 'endpoint' | 'accessKey' | 'secretKey' | 'bucket'> {
  /** Manifests that were read. */
  readonly reads: number;
}

const padded = (number: number, digits: number) => String(number).padStart(digits, '0');
const addressOf = (backup: number) => ({
  ...place,
  instance: `web-${padded(Math.floor(backup / perInstance), 5)}`,
  backup: `backup_2026-11-27-03-00${padded(backup % perInstance, 2)}.tar.gz`,
});
/** Each backup's archive, then its manifest: in the order of their bytes. */
const keyOf = (at: number) => {
  const { remote, project, instance, backup } = addressOf(at >> 1);
  return `${remote}/${project}/${instance}/${backup}${at % 2 === 0 ? '' : '.manifest.json'}`;
};
const etagOf = (at: number) => createHash('md5').update(String(at)).digest('hex');

/** With an index of all of them. */
export async function startListedStore(backups: number): Promise<ListedStore> {
  const objects = 2 * backups;
  const written = new Map<string, Buffer>([[indexKey('', place), await indexOf(backups)]]);
  let reads = 0;
  const server = http.createServer(async (request, response) => {
    const url = new URL(request.url ?? '/', 'http://s3');
    const key = decodeURIComponent(url.pathname.slice('/bucket/'.length));
    const answer = (status: number, body: Buffer | string = '', headers: http.OutgoingHttpHeaders = {}) =>
      response
        .writeHead(status, { 'content-length': Buffer.byteLength(body), ...headers })
        .end(request.method === 'HEAD' ? '' : body);
    if (request.method === 'PUT') {
      written.set(key, await buffer(request));
      return answer(200, '', { etag: '"written"' });
    }
    if (url.searchParams.has('list-type')) return answer(200, listing(url.searchParams, objects));
    const at = key.endsWith('.manifest.json') ? firstAt(key, objects) : undefined;
    if (at !== undefined) reads++;
    const body = written.get(key) ?? (at === undefined ? undefined : manifestOf(at >> 1));
    if (!body) return answer(404, '<Error><Code>NoSuchKey</Code></Error>');
    const etag = { etag: `"${at === undefined ? 'written' : etagOf(at)}"` };
    const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '') ?? [];
    return from === undefined
      ? answer(200, body, etag)
      : answer(206, body.subarray(Number(from), Number(to) + 1), etag);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    ...{ accessKey: 'bench', secretKey: 'bench-secret', bucket: 'bucket' },
    get reads() {
      return reads;
    },
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

function listing(query: URLSearchParams, objects: number): string {
  const prefix = query.get('prefix') ?? '';
  const after = query.get('continuation-token') ?? query.get('start-after') ?? '';
  const most = Number(query.get('max-keys') ?? 1000);
  const entries: string[] = [];
  let last = after;
  for (
    let at = firstAt(after > prefix ? `${after}\0` : prefix, objects);
    at < objects && keyOf(at).startsWith(prefix);
  ) {
    const key = keyOf(at);
    if (entries.length === most)
      return `<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>${last}</NextContinuationToken>${entries.join('')}</ListBucketResult>`;
    const cut = query.has('delimiter') ? key.indexOf('/', prefix.length) + 1 : 0;
    last = cut > 0 ? `${key.slice(0, cut)}\x7f` : key;
    entries.push(
      cut > 0
        ? `<CommonPrefixes><Prefix>${key.slice(0, cut)}</Prefix></CommonPrefixes>`
        : `<Contents><Key>${key}</Key><LastModified>2026-11-27T03:00:12.000Z</LastModified><ETag>"${etagOf(at)}"</ETag><Size>${at % 2 === 0 ? 1_000_000 : manifestSize}</Size></Contents>`,
    );
    at = cut > 0 ? firstAt(last, objects) : at + 1;
  }
  return `<ListBucketResult><IsTruncated>false</IsTruncated>${entries.join('')}</ListBucketResult>`;
}

const manifestSize = manifestOf(0).length;

/** The first object whose key is not before this one. */
function firstAt(key: string, objects: number): number {
  let [low, high] = [0, objects];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (keyOf(middle) < key) low = middle + 1;
    else high = middle;
  }
  return low;
}

function manifestOf(number: number): Buffer {
  const { backup: name, ...address } = addressOf(number);
  const part = { number: 1, size: 1, rawStart: 0, rawEnd: 1, sha256: 'a'.repeat(64), crc32: 'AAAAAA==', etag: 'e' };
  return Buffer.from(
    JSON.stringify({
      ...{ version: 1, writer: 'bench', operation: '4414c3d3-52ea-43a6-aa47-23439a72fc3f' },
      backup: { ...address, name, created: '2026-11-27T03:00:12.000Z', tags: {} },
      archive: {
        ...{ key: 'k', etag: 'e', compression: 'gzip', optimized: false, instanceOnly: false, blockSize: 1024 },
        ...{ size: 1, rawSize: 1, parts: [part] },
      },
      instance: {
        ...{ architecture: 'x86_64', config: {}, devices: {}, type: 'container', pool: 'bt', driver: 'btrfs' },
        ...{ profiles: [], snapshots: [] },
      },
      lxd: { version: '5.0.2' },
    }),
  );
}

/** The index as a gateway writes it behind its first list. */
async function indexOf(backups: number): Promise<Buffer> {
  const like = summarise(parseManifest(manifestOf(0), addressOf(0)));
  using draft = new IndexDraft(new Set());
  for (let from = 0; from < backups; from += batch)
    await draft.add(
      Array.from({ length: Math.min(batch, backups - from) }, (_, index) => {
        const { instance, backup: name } = addressOf(from + index);
        return { instance, ...like, name, etag: etagOf(2 * (from + index) + 1), manifestSize };
      }),
      true,
    );
  let index: Buffer | undefined;
  const store: Partial<ObjectStore> = {
    async create(_, body) {
      index = body;
      return '';
    },
  };
  const log = createLogger({ level: 'error', format: 'json' }, {});
  const signal = new AbortController().signal;
  await draft.write({ store: store as ObjectStore, prefix: '', of: place, log, signal }, undefined);
  if (!index) throw new LxstowError('internal', 'there is no index');
  return index;
}
