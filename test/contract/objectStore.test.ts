import { buffer } from 'node:stream/consumers';
import { it } from 'node:test';
import { XMLParser } from 'fast-xml-parser';
import { Client } from 'minio';
import type { Config, Tags } from '../../services/contract/schemas.ts';
import type { ObjectStore } from '../../services/storage/objectStore.ts';
import { retrying } from '../../services/storage/retrying.ts';
import { createS3Store } from '../../services/storage/s3.ts';
import { type Dialect, scriptedS3 } from '../fault/scriptedS3.ts';
import { hasGarage } from '../lab/parts.ts';
import { type S3Kind, startS3 } from '../lab/s3.ts';
import { poor, strict } from './dialects.ts';
import { type ContractStore, type Differences, objectStoreContract } from './objectStore.ts';

const log = (line: string) => console.log(line);
const xml = new XMLParser({ parseTagValue: false, trimValues: false, isArray: (name) => name === 'Tag' });

interface Opening {
  wrap?: (store: ObjectStore) => ObjectStore;
  /** In front of the server. */
  dialect?: () => Dialect;
  change?: Partial<Config['s3']>;
}

function opener(kind: S3Kind, { wrap = asItIs, dialect, change: always }: Opening = {}): () => Promise<ContractStore> {
  return async () => {
    await using opening = new AsyncDisposableStack();
    const server = opening.use(await startS3({ log, name: 'contract', kind }));
    const { endpoint, bucket, accessKey, secretKey } = server;
    const proxy = dialect && opening.use(await scriptedS3(endpoint, dialect()));
    const config: Config['s3'] = {
      endpoint: proxy?.endpoint ?? endpoint,
      bucket,
      accessKey,
      secretKey,
      region: 'us-east-1',
      prefix: '',
      pathStyle: true,
      uploadMaxAgeMs: 86_400_000,
      checksumHeaders: true,
      idleTimeoutMs: 30_000,
      attempts: 3,
      ...always,
    };
    const { hostname, port } = new URL(endpoint);
    const client = new Client({ endPoint: hostname, port: Number(port), useSSL: false, accessKey, secretKey });
    const owned = opening.move();
    return {
      open: (change = {}) => wrap(owned.use(createS3Store({ ...config, ...change }))),
      bucket,
      secretKey,
      async look(key) {
        // getObjectTagging() would make numbers of digits.
        const request = { method: 'GET', bucketName: bucket, objectName: key, query: 'tagging' };
        const response = await client.makeRequestAsync(request, '', [200], 'us-east-1');
        const root = xml.parse((await buffer(response)).toString()) as Tagging;
        const tags: Tags = {};
        for (const { Key, Value } of root.Tagging.TagSet.Tag ?? []) tags[Key] = Value;
        const { metaData } = await client.statObject(bucket, key);
        return { tags, contentType: metaData['content-type'] as string | undefined };
      },
      freeze: () => server.kill('SIGSTOP'),
      thaw: () => server.kill('SIGCONT'),
      [Symbol.asyncDispose]: () => owned.disposeAsync(),
    };
  };
}

interface Tagging {
  Tagging: { TagSet: { Tag?: { Key: string; Value: string }[] } };
}

const asItIs = (store: ObjectStore) => store;
const withRetries = (store: ObjectStore) => retrying(store, { attempts: 3 });

const minio: Differences = {
  replacesWhatIsGone: 'MinIO looks at If-Match only where there is an object: a change holds a claim against deletions',
};
const pages = 'seen without retries; test/unit/retrying.test.ts has the rest';
const seaweedfs: Differences = {
  completeOverwrites:
    'SeaweedFS looks at If-None-Match on a PUT only: the manifest, written by one, decides who won (docs/architecture.md)',
  makesBuckets: 'SeaweedFS makes a bucket for the first object in it, where the credentials may',
  partsOfAllTimes:
    'SeaweedFS lists a part that was sent twice with both ETags: a resumed backup compares them, and begins anew',
  listsByFolder: 'SeaweedFS lists `c1/…` before `c1-x/…`: nothing of ours relies on the order',
  unusableKeys: { keys: ['o\\o'], reason: 'SeaweedFS takes a backslash for a slash' },
};

const versitygw: Differences = {};
const garage: Differences = {};

objectStoreContract('S3 on MinIO', opener('minio'), minio);
objectStoreContract('S3 on MinIO, with retries', opener('minio', { wrap: withRetries }), { ...minio, pages });
objectStoreContract('S3 on SeaweedFS', opener('seaweedfs'), seaweedfs);
objectStoreContract('S3 on SeaweedFS, with retries', opener('seaweedfs', { wrap: withRetries }), {
  ...seaweedfs,
  pages,
});
objectStoreContract('S3 on VersityGW', opener('versitygw'), versitygw);
objectStoreContract('S3 on VersityGW, with retries', opener('versitygw', { wrap: withRetries }), {
  ...versitygw,
  pages,
});
if (hasGarage()) objectStoreContract('S3 on Garage', opener('garage'), garage);
else it('S3 on Garage', { skip: 'Garage is not there: LXSTOW_LAB_S3=garage builds it' }, () => undefined);
objectStoreContract('S3 as AWS has it', opener('versitygw', { dialect: strict, change: { prefix: 'all' } }), {
  ...versitygw,
  pages,
});
objectStoreContract(
  'S3 without tags and checksums',
  opener('versitygw', { dialect: poor, change: { checksumHeaders: false } }),
  { ...versitygw, pages, noTags: 'they are in the manifest' },
);
