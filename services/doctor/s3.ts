/** Checks S3: reachable, its clock, and each permission, tried on an object of our own, which is removed with all its versions. */
import { createHmac, randomUUID } from 'node:crypto';
import http from 'node:http';
import https from 'node:https';
import { crc32 } from 'node:zlib';
import { crcInS3 } from '../archive/sums.ts';
import { readText } from '../contract/config.ts';
import { isCode, LxstowError } from '../contract/errors.ts';
import type { Config } from '../contract/schemas.ts';
import type { ObjectStore, Upload } from '../storage/objectStore.ts';
import { createS3Store } from '../storage/s3.ts';
import { S3Connection } from '../storage/s3Connection.ts';
import { word, type Xml } from '../storage/s3Messages.ts';
import { isNoBucket } from '../storage/s3Refusals.ts';
import { judgeDates, readCertificates, shownBy } from './certificates.ts';
import { answerMs, briefly, messageOf, type Patient, type Report } from './finding.ts';

const probe = 'lxstow-doctor-';
/** S3 refuses requests signed by a clock that is further off. */
const worstSkewS = 15 * 60;
const badSkewS = 60;
const oldProbeMs = 3_600_000;
const lowShare = 0.1;

export async function examineS3(
  { config: { s3: config, worker }, signal, roles }: Patient,
  report: Report,
): Promise<void> {
  const ca = config.ca === undefined ? undefined : readText(config.ca, 's3.ca');
  if (new URL(config.endpoint).protocol === 'https:') await examineTls(config, ca, signal, report);
  if (!(await examineClock(config, ca, signal, report))) return;
  using store = createS3Store({ ...config, idleTimeoutMs: answerMs });
  try {
    await store.probe(briefly(signal));
  } catch (error) {
    report('problem', messageOf(error), adviceFor(error, config));
    return;
  }
  report('ok', `bucket ${config.bucket} is there, and can be listed`);
  using bucket = new S3Connection({ ...config, idleTimeoutMs: answerMs });
  const kept = await examineVersions(bucket, config.bucket, signal, report);
  const folder = [config.prefix, ...(roles.includes('gateway') ? [] : [worker.remote])].filter(Boolean).join('/');
  await tryRights(
    store,
    { bucket, name: config.bucket },
    `${folder ? `${folder}/` : ''}${probe}`,
    kept,
    signal,
    report,
  );
  await examineSpace(config, ca, signal, report);
}

function adviceFor(error: unknown, { bucket, endpoint }: Config['s3']): string {
  const message = messageOf(error);
  if (isNoBucket(error) || isCode(error, 'not-found'))
    return `Make it (\`lxstow setup\`, or \`mc mb ALIAS/${bucket}\`), or set s3.bucket.`;
  if (/InvalidAccessKeyId/.test(message)) return 'Set s3.accessKey to a user that the store knows.';
  if (/SignatureDoesNotMatch/.test(message)) return 'Set s3.secretKey to the secret of s3.accessKey.';
  if (/RequestTimeTooSkewed/.test(message)) return 'Set the clocks: `timedatectl`.';
  if (/AccessDenied/.test(message)) return `Give the user of s3.accessKey s3:ListBucket on ${bucket}.`;
  if (/region/i.test(message)) return 'Set s3.region to where the bucket is.';
  return `Does S3 answer at ${endpoint}? See s3.endpoint.`;
}

async function examineTls(
  { endpoint, ca: caFile }: Config['s3'],
  ca: string | undefined,
  signal: AbortSignal,
  report: Report,
): Promise<void> {
  const { hostname, port, host } = new URL(endpoint);
  if (caFile !== undefined) {
    const [first] = (await readCertificates(caFile, 's3.ca', report)) ?? [];
    if (first) judgeDates(`S3's CA (${caFile})`, first, 'Put the new one there.', report);
  }
  try {
    const { certificate, distrust } = await shownBy({
      host: hostname,
      port: Number(port || 443),
      ca,
      signal: briefly(signal),
    });
    judgeDates(`the certificate of S3 at ${host}`, certificate, 'Give the server a new one.', report);
    if (distrust !== undefined && distrust !== 'CERT_HAS_EXPIRED')
      report(
        'problem',
        `the certificate of S3 at ${host} is not trusted: ${distrust}`,
        'Set s3.ca to its CA, and s3.endpoint to a name that is in it.',
      );
  } catch {
    // The next request reports it better.
  }
}

/** Compares clocks by the Date of an unsigned request's response. Returns whether one came. */
async function examineClock(
  { endpoint }: Config['s3'],
  ca: string | undefined,
  signal: AbortSignal,
  report: Report,
): Promise<boolean> {
  let answered: Awaited<ReturnType<typeof get>>;
  const before = Date.now();
  try {
    answered = await get(endpoint, '/', {}, ca, signal);
  } catch (error) {
    const certificate = /certificate|self.signed|altname/i.test(messageOf(error));
    report(
      'problem',
      `S3 at ${endpoint} cannot be reached: ${messageOf(error)}`,
      certificate
        ? "Mend the server's certificate, or set s3.ca to its CA."
        : 'Is it running there, and is s3.endpoint right?',
    );
    return false;
  }
  const date = Date.parse(String(answered.headers.date));
  if (Number.isNaN(date)) {
    report(
      'warning',
      'the S3 server does not say what time it has',
      'Its clock and this one must not be 15 minutes apart.',
    );
    return true;
  }
  // The Date has whole seconds.
  const after = Date.now();
  const skew = date > after ? (date - after) / 1000 : date + 1000 < before ? (date + 1000 - before) / 1000 : 0;
  const off = `this host's clock is ${Math.round(Math.abs(skew))} s ${skew > 0 ? 'behind' : 'ahead of'} the S3 server's`;
  if (Math.abs(skew) >= worstSkewS)
    report('problem', `${off}: it refuses all requests`, 'Set both by NTP: `timedatectl set-ntp true`.');
  else if (Math.abs(skew) >= badSkewS)
    report(
      'warning',
      `${off}; from 15 minutes on it refuses all requests`,
      'Set both by NTP: `timedatectl set-ntp true`.',
    );
  else report('ok', `S3 answers at ${endpoint}, and has the same time`);
  return true;
}

function get(
  endpoint: string,
  path: string,
  headers: Record<string, string>,
  ca: string | undefined,
  signal: AbortSignal,
) {
  const url = new URL(path, endpoint);
  const client = url.protocol === 'https:' ? https : http;
  return new Promise<{ status: number; headers: http.IncomingHttpHeaders; body: string }>((resolve, reject) => {
    const options = { agent: false, headers, signal: briefly(signal), ...(ca === undefined ? {} : { ca }) };
    const request = client.get(url, options, (response) => {
      let body = '';
      response.setEncoding('utf8');
      response.on('data', (chunk: string) => {
        body += chunk;
      });
      response.on('end', () => resolve({ status: response.statusCode ?? 0, headers: response.headers, body }));
      response.on('error', reject);
    });
    request.on('error', (error) => reject(error.name === 'AbortError' ? (options.signal.reason as Error) : error));
  });
}

/** The bucket itself: for what ObjectStore does not offer, versions and locks. */
interface BucketItself {
  bucket: S3Connection;
  name: string;
}

/** What the bucket does with deleted objects. */
interface Kept {
  versions: boolean;
  /** Written objects cannot be removed for some time. */
  locked: boolean;
}

async function examineVersions(s3: S3Connection, bucket: string, signal: AbortSignal, report: Report): Promise<Kept> {
  const setting = (root: string, name: string) =>
    s3.ask(root, { method: 'GET', query: { [name]: '' }, signal: briefly(signal) });
  const versioning = await setting('VersioningConfiguration', 'versioning').catch((error: Error) => error);
  if (versioning instanceof Error) {
    const seldom = /NotImplemented|MethodNotAllowed/.test(versioning.message);
    if (!seldom) report('ok', 'whether the bucket keeps versions, this user may not see');
    return { versions: !seldom, locked: false };
  }
  const status = versioning.Status;
  if (status !== 'Enabled') {
    report('ok', 'the bucket keeps no versions: what is deleted is gone, and its space free');
    return { versions: status === 'Suspended', locked: false };
  }
  const lock = await setting('ObjectLockConfiguration', 'object-lock').catch(() => ({}) as Xml);
  const { Mode: mode, Days: days, Years: years } = ((lock.Rule as Xml | undefined)?.DefaultRetention ?? {}) as Xml;
  const rules = await setting('LifecycleConfiguration', 'lifecycle').catch(() => ({}));
  const ends = /"Noncurrent(VersionExpiration|Days)"/i.test(JSON.stringify(rules));
  const period = days === undefined ? `${years} years` : `${days} days`;
  const held = mode ? `, and nobody can remove one for ${period} (${mode})` : '';
  const what = `the bucket keeps versions${held}: what lxstow deletes stays there as an old version`;
  if (ends) report('ok', `${what} until a lifecycle rule removes it`);
  else
    report(
      'warning',
      `${what}, and its space is never free`,
      `\`mc ilm rule add --noncurrent-expire-days 30 --expire-delete-marker ALIAS/${bucket}\``,
    );
  return { versions: true, locked: Boolean(mode) };
}

/** Tries every call of gateway and worker once. In a locked bucket it starts only an upload, which it aborts: an object would stay. */
async function tryRights(
  store: ObjectStore,
  bucket: BucketItself,
  prefix: string,
  kept: Kept,
  signal: AbortSignal,
  report: Report,
): Promise<void> {
  const key = `${prefix}${randomUUID()}`;
  const small = { contentType: 'text/plain' };
  const body = Buffer.from('lxstow doctor: this may be removed\n');
  const done: string[] = [];
  let upload: Upload | undefined;
  let failed = false;
  const step = async <T>(
    what: string,
    right: string,
    run: (signal: AbortSignal) => Promise<T>,
  ): Promise<T | undefined> => {
    signal.throwIfAborted();
    try {
      const result = await run(briefly(signal));
      done.push(what);
      return result;
    } catch (error) {
      failed = true;
      report(
        'problem',
        `S3 does not let us ${what}: ${messageOf(error)}`,
        adviceForRight(error, right, bucket.name, prefix.slice(0, -probe.length)),
      );
      return undefined;
    }
  };
  try {
    if (!kept.locked) {
      const etag = await step('put', 's3:PutObject', (s) => store.create(key, body, small, s));
      if (etag !== undefined) {
        await tryCondition(store, key, signal, report);
        await step('get', 's3:GetObject', async (s) => {
          if (!(await store.read(key, s)).body.equals(body))
            throw new LxstowError('s3-refused', 'other bytes came back');
        });
        await step('list', 's3:ListBucket', async (s) => {
          const seen = [];
          for await (const object of store.list(prefix, s)) seen.push(object);
          if (!seen.some((object) => object.key === key))
            throw new LxstowError('s3-refused', 'the object just put is not listed');
          for (const old of seen)
            if (Date.now() - Date.parse(old.modified) > oldProbeMs) await store.remove(old.key, s);
        });
        await step('tag', 's3:PutObjectTagging', (s) => store.tag(key, { lxstow: 'doctor' }, s));
        await step('delete', 's3:DeleteObject', (s) => store.remove(key, s));
      }
    }
    upload = await step('begin a multipart upload', 's3:PutObject', (s) =>
      store.beginUpload(key, { tags: {}, ...small }, s),
    );
    if (upload) {
      const open = upload;
      const sum = crcInS3(crc32(body));
      const etag = await step('put a part', 's3:PutObject', (s) => store.putPart(open, 1, body, sum, s));
      await step('list parts', 's3:ListMultipartUploadParts', (s) => store.listParts(open, s));
      await step('list uploads', 's3:ListBucketMultipartUploads', async (s) => {
        for await (const _ of store.listUploads(key, s));
      });
      if (etag !== undefined && !kept.locked) {
        const part = { number: 1, etag, crc32: sum };
        const made = await step('complete an upload', 's3:PutObject', (s) => store.completeUpload(open, [part], s));
        if (made !== undefined) {
          upload = undefined;
          await store.remove(key, briefly(signal));
          upload = await step('begin another', 's3:PutObject', (s) =>
            store.beginUpload(key, { tags: {}, ...small }, s),
          );
        }
      }
      if (upload) {
        const last = upload;
        await step('abort an upload', 's3:AbortMultipartUpload', (s) => store.abortUpload(last, s));
      }
    }
    if (!failed)
      report(
        'ok',
        `tried, and allowed: ${done.filter((what) => what !== 'begin another').join(', ')}${kept.locked ? '; put and delete were left out, for what is put would stay locked' : ''}`,
      );
  } finally {
    await cleanUp(store, bucket, key, upload, kept, report);
  }
}

/** Permissions to list are the bucket's, all others its objects'. */
function adviceForRight(error: unknown, right: string, bucket: string, folder: string): string {
  if (isCode(error, 's3-full')) return 'Make room in the store.';
  const missing = /NotImplemented|InvalidRequest|InvalidArgument|Unsupported|HTTP (400|501)/.test(messageOf(error));
  if (missing) return 'The store does not have this, and lxstow needs it: docs/s3.md says what a store must have.';
  if (/^s3:ListBucket/.test(right))
    return `Give the user of s3.accessKey ${right} on ${bucket}${folder ? `, for the prefix ${folder}` : ''}.`;
  return `Give the user of s3.accessKey ${right} on ${bucket}/${folder}*.`;
}

/** Tests `If-None-Match`, which decides which of two writers wins. */
async function tryCondition(store: ObjectStore, key: string, signal: AbortSignal, report: Report): Promise<void> {
  try {
    await store.create(key, Buffer.from('second'), { contentType: 'text/plain' }, briefly(signal));
  } catch (error) {
    if (isCode(error, 'conflict')) return;
    report(
      'problem',
      `S3 does not know conditional writes: ${messageOf(error)}`,
      'Use a store that takes If-None-Match on PUT: docs/s3.md.',
    );
    return;
  }
  report(
    'problem',
    'S3 wrote over an object in spite of If-None-Match: two workers could both believe to have won',
    'Use a store that takes If-None-Match on PUT, or a newer version of this one: docs/s3.md.',
  );
}

/** Removes what was put, whatever failed, and even after an abort. */
async function cleanUp(
  store: ObjectStore,
  { bucket, name }: BucketItself,
  key: string,
  upload: Upload | undefined,
  kept: Kept,
  report: Report,
): Promise<void> {
  const now = () => AbortSignal.timeout(answerMs);
  try {
    if (upload) await store.abortUpload(upload, now());
    if (kept.locked) return;
    await store.remove(key, now());
    if (!kept.versions) return;
    const query = { versions: '', prefix: key };
    const { Version = [], DeleteMarker = [] } = await bucket.ask('ListVersionsResult', {
      method: 'GET',
      query,
      signal: now(),
    });
    for (const each of [Version, DeleteMarker].flat() as Xml[])
      await bucket.send({ method: 'DELETE', key, query: { versionId: word(each, 'VersionId') }, signal: now() });
  } catch (error) {
    report(
      'warning',
      `what was put to try S3 may still be there: ${messageOf(error)}`,
      `\`mc rm --versions --force ALIAS/${name}/${key}\``,
    );
  }
}

/** MinIO reports its free space to users who may see its metrics. */
async function examineSpace(
  { endpoint, accessKey, secretKey }: Config['s3'],
  ca: string | undefined,
  signal: AbortSignal,
  report: Report,
): Promise<void> {
  const base64 = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const claims = `${base64({ alg: 'HS512', typ: 'JWT' })}.${base64({ sub: accessKey, iss: 'prometheus', exp: Math.floor(Date.now() / 1000) + 60 })}`;
  const authorization = `Bearer ${claims}.${createHmac('sha512', secretKey).update(claims).digest('base64url')}`;
  const answer = await get(endpoint, '/minio/v2/metrics/cluster', { authorization }, ca, signal).catch(() => undefined);
  const number = (metric: string) =>
    Number(new RegExp(`^${metric}(?:{[^}]*})? ([0-9.e+]+)$`, 'm').exec(answer?.body ?? '')?.[1]);
  const [free, total] = [
    number('minio_cluster_capacity_usable_free_bytes'),
    number('minio_cluster_capacity_usable_total_bytes'),
  ];
  if (answer?.status !== 200 || !(total > 0)) return;
  const said = `MinIO has ${gib(free)} of ${gib(total)} free`;
  if (free < total * lowShare)
    report('warning', said, 'Delete backups, or add drives; a full MinIO refuses backups (s3-full).');
  else report('ok', said);
}

function gib(bytes: number): string {
  return `${(bytes / 2 ** 30).toFixed(1)} GiB`;
}
