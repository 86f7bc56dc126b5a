/** The bucket itself: whether it keeps versions, and locks them. */
import http from 'node:http';
import https from 'node:https';
import { Client } from 'minio';
import { until } from '../concurrency/until.ts';
import type { Config } from '../contract/schemas.ts';
import { clientOptions } from '../storage/s3.ts';
import { answerMs, type Report } from './finding.ts';

export interface BucketItself extends Disposable {
  readonly client: Client;
  readonly name: string;
}

/** For what ObjectStore does not offer: versions, locks. */
export function openBucket(config: Config['s3'], ca: string | undefined): BucketItself {
  const url = new URL(config.endpoint);
  const settings = { keepAlive: true, timeout: answerMs };
  const transportAgent =
    url.protocol === 'https:'
      ? new https.Agent({ ...settings, ...(ca === undefined ? {} : { ca }) })
      : new http.Agent(settings);
  const client = new Client({
    ...clientOptions(config, url),
    transportAgent,
    retryOptions: { disableRetry: true },
  });
  return { client, name: config.bucket, [Symbol.dispose]: () => transportAgent.destroy() };
}

/** Limits a call's time: minio-js takes no signal. The socket's timeout ends the call itself. */
export function inTime<T>(call: Promise<T>): Promise<T> {
  return until(AbortSignal.timeout(answerMs), call);
}

/** What the bucket does with deleted objects. */
export interface Kept {
  versions: boolean;
  /** Written objects cannot be removed for some time. */
  locked: boolean;
}

export async function examineVersions(
  { client, name }: BucketItself,
  { bucket }: Config['s3'],
  report: Report,
): Promise<Kept> {
  const versioning = await inTime(client.getBucketVersioning(name)).catch((error: Error) => error);
  if (versioning instanceof Error) {
    const unsupported = /NotImplemented|MethodNotAllowed/.test(`${(versioning as { code?: string }).code}`);
    if (!unsupported) report('ok', 'this user may not see whether the bucket keeps versions');
    return { versions: !unsupported, locked: false };
  }
  const status = String((versioning as unknown as { Status?: string } | undefined)?.Status ?? '');
  if (status !== 'Enabled') {
    report('ok', 'the bucket keeps no versions: a deleted object frees its space');
    return { versions: status === 'Suspended', locked: false };
  }
  const lock = (await inTime(client.getObjectLockConfig(name) as unknown as Promise<unknown>).catch(() => undefined)) as
    | { mode?: string; validity?: number; unit?: string }
    | undefined;
  const rules = await inTime(client.getBucketLifecycle(name)).catch(() => null);
  const ends = /"Noncurrent(VersionExpiration|Days)"/i.test(JSON.stringify(rules ?? {}));
  const held = lock?.mode
    ? `, and nobody can remove one for ${lock.validity} ${String(lock.unit).toLowerCase()} (${lock.mode})`
    : '';
  const what = `the bucket keeps versions${held}: what lxstow deletes stays there as an old version`;
  if (ends) report('ok', `${what} until a lifecycle rule removes it`);
  else
    report(
      'warning',
      `${what}, and its space is never freed`,
      `\`mc ilm rule add --noncurrent-expire-days 30 --expire-delete-marker ALIAS/${bucket}\``,
    );
  return { versions: true, locked: Boolean(lock?.mode) };
}
