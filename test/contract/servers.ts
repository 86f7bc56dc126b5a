/**
 * How each S3 server behaves, and where it differs from what lxstow expects. The contract's tests (objectStore.ts, objectLock.test.ts) check every entry, also
 * that a server lacks what it is said to lack. `npm run generate` writes this as a table into docs/s3.md.
 */

/** Behaviour that lxstow would like, but can do without. `row`: what docs/s3.md calls it. `kept`: what docs/s3.md says about a server that behaves so. */
export const traits = {
  createOnce: { row: '`If-None-Match: *` on PUT, eight at once', kept: 'one wins' },
  replaceOnce: { row: '`If-Match` on PUT, eight at once', kept: 'one wins' },
  replaceGone: { row: '`If-Match` on PUT, if the object no longer exists', kept: 'refused' },
  completionCondition: { row: 'unmet `If-None-Match: *` or `If-Match` on a completion', kept: 'refused' },
  /** A race: if several may win, a test in which one wins proves nothing. */
  completionOnce: { row: '`If-None-Match: *` on a completion, four at once', kept: 'one wins' },
  completionTwice: { row: 'completing an upload twice', kept: 'the second is refused' },
  goneUpload: { row: 'completing an aborted upload', kept: '`NoSuchUpload`' },
  partSum: { row: 'a part with a wrong CRC-32', kept: 'refused' },
  partOnce: { row: 'a part that was sent twice', kept: 'listed once' },
  copyCondition: { row: 'copying from an object whose ETag has changed', kept: 'refused' },
  tags: { row: 'tags', kept: 'yes' },
  tagsOfUploads: { row: 'tags given at the beginning of an upload', kept: 'kept' },
  lock: { row: 'Object Lock, legal holds, versions', kept: 'yes' },
  lockRefused: { row: 'a lock, in a bucket without Object Lock', kept: 'refused' },
  uploadsKept: { row: 'open uploads, after a restart', kept: 'listed' },
  uploadsOfOneKey: { row: 'a listing of more than 1 000 uploads of one key', kept: 'complete' },
  powerCut: { row: "a power cut right after the server's answer", kept: 'loses nothing' },
  full: { row: 'a full disk', kept: '507: `s3-full`' },
  bucketNeeded: { row: 'a PUT into a bucket that does not exist', kept: 'refused' },
  order: { row: 'order of listings', kept: "by the keys' bytes" },
  oddKeys: { row: 'special characters in keys', kept: 'unchanged' },
} as const;

export type Trait = keyof typeof traits;
/** What a server does instead, and how lxstow deals with it. */
export type Differences = Partial<Record<Trait, string>>;

export interface Server {
  title: string;
  differs: Differences;
  /** Parts of keys that the server changes. */
  unusable?: string[];
}

const never = '**ignored**: lxstow cannot use this server, and `lxstow doctor` says so';
const unsynced = 'loses what was written in the last half minute: set `s3.syncFolder`';

export const servers = {
  minio: {
    title: 'MinIO of 2026-02',
    differs: {
      uploadsKept:
        'listed only by their exact keys, which checkpoints contain. Removed after a day; lxstow replaces them before that',
      powerCut: 'loses the last object: set `s3.syncFolder`',
    },
  },
  seaweedfs: {
    title: 'SeaweedFS 4.48',
    differs: {
      completionOnce: '**several may win**: the manifest decides',
      powerCut: unsynced,
      full: '500: `s3-unavailable`; jobs wait as for `s3-full`',
      partOnce: 'listed with both ETags: a resumed backup notices this, and starts from the beginning',
      bucketNeeded: 'creates the bucket, if the keys have the right',
      order: 'by folder; lxstow does not rely on the order',
      oddKeys: 'a backslash becomes a slash',
    },
    unusable: ['o\\o'],
  },
  versitygw: {
    title: 'VersityGW 1.8',
    differs: {
      completionTwice:
        '200, even if the first one is still running or was interrupted: lxstow checks that the object exists',
      lock: 'not with the options that lxstow uses',
      powerCut: `${unsynced}; \`s3.folder\` sets it`,
      uploadsOfOneKey: 'the first thousand',
    },
  },
  ceph: {
    title: 'Ceph 16.2',
    differs: {
      completionCondition: '**overwrites the object**: the manifest decides',
      completionOnce: '**several may win**: the manifest decides',
      goneUpload: '500: lxstow retries in vain',
      oddKeys:
        '**radosgw crashes when it copies from a key with `%`**: only the name of a project can contain one, and lxstow copies only if a backup takes longer than `s3.uploadMaxAgeMs`',
      completionTwice: '200: lxstow checks that the object exists',
      partSum: '**accepted**: set `s3.checksumHeaders: false`, because Ceph checks Content-MD5',
      copyCondition: "**copied**: harmless, because no other operation writes to an upload's key",
      tagsOfUploads: 'dropped: tags are in the manifest, and on the manifest object',
      lock: 'not tried',
      lockRefused: 'not tried',
      uploadsKept: 'not tried',
      powerCut: 'not tried',
      full: 'not tried',
    },
    unusable: ['o%o', 'o%2Fo'],
  },
  garage: {
    title: 'Garage 2.5',
    differs: {
      createOnce: never,
      replaceOnce: never,
      replaceGone: never,
      completionCondition: never,
      completionOnce: never,
      tags: 'none',
      tagsOfUploads: 'none',
      lock: 'none',
      lockRefused: 'accepted, but not kept: lxstow asks whether the bucket has Object Lock, and refuses the backup',
      powerCut: unsynced,
      full: '503: `s3-unavailable`; jobs wait as for `s3-full`',
    },
  },
} as const satisfies Record<string, Server>;

/** The table of docs/s3.md. */
export function serversTable(): string {
  const all = Object.values<Server>(servers);
  const rows = Object.entries(traits).map(([trait, { row, kept }]) => [
    row,
    ...all.map(({ differs }) => differs[trait as Trait] ?? kept),
  ]);
  const head = ['', ...all.map(({ title }) => title)];
  return [head, head.map(() => ':--'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n');
}
