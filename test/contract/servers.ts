/**
 * What each S3 server has, and what it does differently: the contract's tests (objectStore.ts, objectLock.test.ts) hold a server to each word, what it
 * has as what it has not. docs/s3.md shows this as a table: `npm run generate`.
 */

/** What lxstow can live without. `row` and `kept`: what docs/s3.md says of it, and of a server that does what lxstow would like. */
export const traits = {
  createOnce: { row: '`If-None-Match: *` on PUT, eight at once', kept: 'one wins' },
  replaceOnce: { row: '`If-Match` on PUT, eight at once', kept: 'one wins' },
  replaceGone: { row: '`If-Match` on PUT, where the object is gone', kept: 'refused' },
  completionCondition: { row: '`If-None-Match: *`, `If-Match` on a completion', kept: 'refused' },
  /** A race: where several may win, a test in which one wins proves nothing. */
  completionOnce: { row: '`If-None-Match: *` on a completion, four at once', kept: 'one wins' },
  completionTwice: { row: 'completing once more', kept: 'refused' },
  goneUpload: { row: 'completing an upload that was given up', kept: '`NoSuchUpload`' },
  partSum: { row: 'a part with another CRC-32', kept: 'refused' },
  partOnce: { row: 'a part that was sent twice', kept: 'listed once' },
  copyCondition: { row: 'copying from an object with another ETag', kept: 'refused' },
  tags: { row: 'tags', kept: 'yes' },
  tagsOfUploads: { row: 'tags given at the beginning of an upload', kept: 'kept' },
  lock: { row: 'Object Lock, legal holds, versions', kept: 'yes' },
  lockRefused: { row: 'a lock, where the bucket has none', kept: 'refused' },
  uploadsKept: { row: 'open uploads, after a restart', kept: 'listed' },
  uploadsOfOneKey: { row: 'a listing of more than 1 000 uploads of one key', kept: 'whole' },
  powerCut: { row: 'a power cut right after its answer', kept: 'keeps what was written' },
  full: { row: 'a full disk', kept: '507: `s3-full`' },
  bucketNeeded: { row: 'a PUT into a bucket that is not there', kept: 'refused' },
  order: { row: 'listings', kept: "by the keys' bytes" },
  oddKeys: { row: 'odd characters in keys', kept: 'as sent' },
} as const;

export type Trait = keyof typeof traits;
/** What a server does instead, and how lxstow lives with it. */
export type Differences = Partial<Record<Trait, string>>;

export interface Server {
  title: string;
  differs: Differences;
  /** Parts of keys that do not come back as they were sent. */
  unusable?: string[];
}

const never = '**ignored**: not for lxstow, and `lxstow doctor` says so';
const unsynced = 'loses what was written in the last half minute: `s3.syncFolder`';

export const servers = {
  minio: {
    title: 'MinIO of 2026-02',
    differs: {
      uploadsKept:
        'only by their exact keys: checkpoints have these. A day old, they are removed: they are renewed in time',
      powerCut: 'loses the last object: `s3.syncFolder`',
    },
  },
  seaweedfs: {
    title: 'SeaweedFS 4.48',
    differs: {
      completionOnce: '**several may win**: the manifest decides',
      powerCut: unsynced,
      full: '500: `s3-unavailable`, jobs wait as well',
      partOnce: 'listed with both ETags: a resumed backup compares them, and begins anew',
      bucketNeeded: 'makes the bucket, where the keys may',
      order: 'by folder: nothing relies on the order',
      oddKeys: 'a backslash becomes a slash',
    },
    unusable: ['o\\o'],
  },
  versitygw: {
    title: 'VersityGW 1.8',
    differs: {
      completionTwice: '200, even while or after the first was cut off: lxstow looks whether the object is there',
      lock: 'not as lxstow starts it',
      powerCut: `${unsynced}, which \`s3.folder\` implies`,
      uploadsOfOneKey: 'the first thousand',
    },
  },
  ceph: {
    title: 'Ceph 16.2',
    differs: {
      completionCondition: '**writes over it**: the manifest decides',
      completionOnce: '**several may win**: the manifest decides',
      goneUpload: '500: tried again in vain',
      oddKeys:
        '**`%` in a key that is copied from ends radosgw**: only a project can have it, and a backup that takes a day',
      completionTwice: '200: lxstow looks whether the object is there',
      partSum: '**taken**: `s3.checksumHeaders: false`, it checks Content-MD5',
      copyCondition: "**copied**: an upload's key is its own",
      tagsOfUploads: 'dropped: they are in the manifest, and on it',
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
      lockRefused: 'taken, and not kept: lxstow asks whether the bucket locks, and refuses',
      powerCut: unsynced,
      full: '503: `s3-unavailable`, jobs wait as well',
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
