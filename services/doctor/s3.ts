/** Checks S3: TLS, its clock, the bucket, each permission, and free space. */
import { createHmac } from 'node:crypto';
import { once } from 'node:events';
import http from 'node:http';
import https from 'node:https';
import { text } from 'node:stream/consumers';
import { listPrefix } from '../backups/keys.ts';
import { sizeText } from '../contract/amounts.ts';
import { readText } from '../contract/config.ts';
import type { Config } from '../contract/schemas.ts';
import { createS3Store } from '../storage/s3/s3.ts';
import { S3Connection } from '../storage/s3/s3Connection.ts';
import { examineCa, examineServer } from './certificates.ts';
import { answerMs, briefly, messageOf, type Patient, type Report } from './finding.ts';
import { examineFolder } from './folder.ts';
import { adviceFor } from './s3Advice.ts';
import { examineVersions } from './s3Bucket.ts';
import { RightsTrial } from './s3Rights.ts';

/** S3 refuses requests signed by a clock that is further off. */
const worstSkewS = 15 * 60;
const badSkewS = 60;
const lowShare = 0.1;

/** The S3 server, for requests that are not the store's. */
interface Server {
  config: Config['s3'];
  /** PEM. */
  ca: string | undefined;
  signal: AbortSignal;
}

export async function examineS3(patient: Patient, report: Report, reportLeft: Report): Promise<void> {
  const { signal, roles } = patient;
  const { s3: config, worker } = patient.config;
  if (config.folder !== undefined && !(await examineFolder(config.folder, patient, report))) return;
  const server = { config, ca: config.ca === undefined ? undefined : readText(config.ca, 's3.ca'), signal };
  if (new URL(config.endpoint).protocol === 'https:') await examineTls(server, report);
  if (!(await examineClock(server, report))) return;
  using store = createS3Store({ ...config, idleTimeoutMs: answerMs });
  try {
    await store.probe(briefly(signal));
  } catch (error) {
    report('problem', messageOf(error), adviceFor(error, config));
    return;
  }
  report('ok', `bucket ${config.bucket} exists, and can be listed`);
  using bucket = new S3Connection({ ...config, idleTimeoutMs: answerMs });
  const kept = await examineVersions(bucket, config.bucket, signal, report);
  const { prefix } = config;
  const folder = roles.includes('gateway') ? prefix && `${prefix}/` : listPrefix(prefix, worker);
  await new RightsTrial({ store, bucket, name: config.bucket, kept, folder, signal }, report, reportLeft).run();
  await examineSpace(server, report);
}

async function examineTls({ config, ca, signal }: Server, report: Report): Promise<void> {
  const { endpoint, ca: caFile } = config;
  const { hostname, port, host } = new URL(endpoint);
  if (caFile !== undefined) await examineCa("S3's CA", { file: caFile, key: 's3.ca' }, report);
  try {
    await examineServer(
      `the certificate of S3 at ${host}`,
      { host: hostname, port: Number(port || 443), ca, signal: briefly(signal) },
      {
        renew: 'Give the server a new certificate.',
        trust: 'Set s3.ca to the CA of this certificate, and s3.endpoint to a name in the certificate.',
      },
      report,
    );
  } catch {
    // The next request reports it better.
  }
}

/** Compares clocks by the Date of an unsigned request's response. Returns whether one came. */
async function examineClock(server: Server, report: Report): Promise<boolean> {
  const { endpoint, folder } = server.config;
  let answered: Awaited<ReturnType<typeof get>>;
  const before = Date.now();
  try {
    answered = await get(server, '/');
  } catch (error) {
    const certificate = /certificate|self.signed|altname/i.test(messageOf(error));
    report(
      'problem',
      `S3 at ${endpoint} cannot be reached: ${messageOf(error)}`,
      folder !== undefined
        ? 'Is `lxstow standalone` running? It serves s3.folder.'
        : certificate
          ? "Replace the server's certificate, or set s3.ca to its CA."
          : 'Check that the S3 server is running there, and that s3.endpoint is right.',
    );
    return false;
  }
  const date = Date.parse(String(answered.headers.date));
  if (Number.isNaN(date)) {
    report(
      'warning',
      'the S3 server does not say its time',
      'Make sure that its clock and the one of this host differ by less than 15 minutes.',
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
    report('warning', `${off}; at 15 minutes, it refuses all requests`, 'Set both by NTP: `timedatectl set-ntp true`.');
  else report('ok', `S3 answers at ${endpoint}, and has the same time`);
  return true;
}

async function get({ config, ca, signal }: Server, path: string, headers: Record<string, string> = {}) {
  const url = new URL(path, config.endpoint);
  const client = url.protocol === 'https:' ? https : http;
  const options = { agent: false, headers, signal: briefly(signal), ...(ca === undefined ? {} : { ca }) };
  try {
    // The answer may also fail after it has begun.
    const request = client.get(url, options).on('error', () => undefined);
    const [response] = (await once(request, 'response')) as [http.IncomingMessage];
    return { status: response.statusCode, headers: response.headers, body: await text(response) };
  } catch (error) {
    throw options.signal.aborted ? options.signal.reason : error;
  }
}

/** MinIO reports its free space to users who may see its metrics. */
async function examineSpace(server: Server, report: Report): Promise<void> {
  const { accessKey, secretKey } = server.config;
  const base64 = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const claims = `${base64({ alg: 'HS512', typ: 'JWT' })}.${base64({ sub: accessKey, iss: 'prometheus', exp: Math.floor(Date.now() / 1000) + 60 })}`;
  const authorization = `Bearer ${claims}.${createHmac('sha512', secretKey).update(claims).digest('base64url')}`;
  const answer = await get(server, '/minio/v2/metrics/cluster', { authorization }).catch(() => undefined);
  const number = (metric: string) =>
    Number(new RegExp(`^${metric}(?:{[^}]*})? ([0-9.e+]+)$`, 'm').exec(answer?.body ?? '')?.[1]);
  const [free, total] = [
    number('minio_cluster_capacity_usable_free_bytes'),
    number('minio_cluster_capacity_usable_total_bytes'),
  ];
  if (answer?.status !== 200 || !(total > 0)) return;
  const said = `MinIO has ${sizeText(free)} of ${sizeText(total)} free`;
  if (free < total * lowShare)
    report('warning', said, 'Delete backups, or add drives: a full store refuses backups (s3-full).');
  else report('ok', said);
}
