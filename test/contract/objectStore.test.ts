import { buffer } from 'node:stream/consumers';
import { it } from 'node:test';
import { XMLParser } from 'fast-xml-parser';
import { Client } from 'minio';
import type { Config, Tags } from '../../services/contract/schemas.ts';
import type { ObjectStore } from '../../services/storage/objectStore.ts';
import { retrying } from '../../services/storage/retrying.ts';
import { createS3Store } from '../../services/storage/s3/s3.ts';
import { type Dialect, type Hold, scriptedS3 } from '../fault/scriptedS3.ts';
import { hasGarage } from '../lab/parts.ts';
import { type LabS3, type S3Kind, s3Settings, s3Titles, startS3 } from '../lab/s3.ts';
import { poor, strict } from './dialects.ts';
import { type ContractStore, objectStoreContract } from './objectStore.ts';
import { type Server, servers } from './servers.ts';

const log = (line: string) => console.log(line);
const xml = new XMLParser({ parseTagValue: false, trimValues: false, isArray: (name) => name === 'Tag' });

interface Opening {
  wrap?: (store: ObjectStore) => ObjectStore;
  /** In front of the server. */
  dialect?: () => Dialect;
  change?: Partial<Config['s3']>;
}

type Access = Pick<LabS3, 'endpoint' | 'bucket' | 'accessKey' | 'secretKey'>;
type Control = Pick<ContractStore, 'freeze' | 'thaw' | 'restart'>;

function opener(kind: S3Kind, opening: Opening = {}): () => Promise<ContractStore> {
  return async () => {
    await using owned = new AsyncDisposableStack();
    const server = owned.use(await startS3({ log, name: 'contract', kind }));
    const proxy = opening.dialect && owned.use(await scriptedS3(server.endpoint, opening.dialect()));
    const control = {
      freeze: () => server.kill('SIGSTOP'),
      thaw: () => server.kill('SIGCONT'),
      async restart() {
        await server.kill('SIGKILL');
        await server.start();
      },
    };
    return subjectOf(server, control, { ...opening, endpoint: proxy?.endpoint ?? server.endpoint }, owned.move());
  };
}

/** A server that somebody else has started. It cannot be frozen, but the way to it. */
async function openForeign({ origin, username, password, pathname }: URL): Promise<ContractStore> {
  await using owned = new AsyncDisposableStack();
  const proxy = owned.use(await scriptedS3(origin));
  let held: Hold | undefined;
  const control = {
    async freeze() {
      held = proxy.hold(/./);
    },
    thaw: async () => held?.release(),
  };
  const access = { endpoint: origin, bucket: pathname.slice(1), accessKey: username, secretKey: password };
  return subjectOf(access, control, { endpoint: proxy.endpoint }, owned.move());
}

function subjectOf(
  { endpoint, bucket, accessKey, secretKey }: Access,
  control: Control,
  { wrap = asItIs, change: always, endpoint: through }: Opening & { endpoint: string },
  owned: AsyncDisposableStack,
): ContractStore {
  const config: Config['s3'] = {
    endpoint: through,
    bucket,
    accessKey,
    secretKey,
    ...s3Settings,
    idleTimeoutMs: 30_000,
    attempts: 3,
    ...always,
  };
  const { hostname, port } = new URL(endpoint);
  const client = new Client({ endPoint: hostname, port: Number(port), useSSL: false, accessKey, secretKey });
  return {
    open: (change = {}) => wrap(owned.use(createS3Store({ ...config, ...change }))),
    bucket,
    secretKey,
    async look(key) {
      // getObjectTagging() would make numbers of digits.
      const request = { method: 'GET', bucketName: bucket, objectName: key, query: 'tagging' };
      const response = await client.makeRequestAsync(request, '', [200, 501], 'us-east-1');
      const root = xml.parse((await buffer(response)).toString()) as Partial<Tagging>;
      const tags: Tags = {};
      for (const { Key, Value } of root.Tagging?.TagSet.Tag ?? []) tags[Key] = Value;
      const { metaData } = await client.statObject(bucket, key);
      return { tags, contentType: metaData['content-type'] as string | undefined };
    },
    ...control,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

interface Tagging {
  Tagging: { TagSet: { Tag?: { Key: string; Value: string }[] } };
}

const asItIs = (store: ObjectStore) => store;
const withRetries = (store: ObjectStore) => retrying(store, { attempts: 3 });

const pages = 'seen without retries; test/unit/retrying.test.ts has the rest';
const { minio, seaweedfs, versitygw, garage } = servers;

const contract = (kind: S3Kind, { differs, unusable }: Server) => {
  objectStoreContract(`S3 on ${s3Titles[kind]}`, opener(kind), { differs, unusable });
  const retried = { differs, unusable, pages };
  objectStoreContract(`S3 on ${s3Titles[kind]}, with retries`, opener(kind, { wrap: withRetries }), retried);
};
/**
 * `LXSTOW_CONTRACT_S3=http://ACCESSKEY:SECRETKEY@HOST:PORT/BUCKET` asks any server, and no other. LXSTOW_CONTRACT_SERVER holds it to a column of
 * servers.ts.
 */
const { LXSTOW_CONTRACT_S3: foreign, LXSTOW_CONTRACT_SERVER: column } = process.env;
if (foreign) {
  const expected: Server | undefined = column === undefined ? undefined : servers[column as keyof typeof servers];
  objectStoreContract('S3 as LXSTOW_CONTRACT_S3 has it', () => openForeign(new URL(foreign)), { ...expected });
} else {
  contract('minio', minio);
  contract('seaweedfs', seaweedfs);
  contract('versitygw', versitygw);
  if (hasGarage()) contract('garage', garage);
  else
    it(
      'S3 on Garage',
      { skip: 'Garage is not there: LXSTOW_LAB_GARAGE=1 has it built, in some minutes' },
      () => undefined,
    );
  objectStoreContract('S3 as AWS has it', opener('versitygw', { dialect: strict, change: { prefix: 'all' } }), {
    differs: versitygw.differs,
    pages,
  });
  objectStoreContract(
    'S3 without tags and checksums',
    opener('versitygw', { dialect: poor, change: { checksumHeaders: false } }),
    { differs: { ...versitygw.differs, tags: 'none', tagsOfUploads: 'none' }, pages },
  );
}
