/** Checks settings of the bucket that ObjectStore does not offer: whether it keeps versions, and locks them. */
import { isCode } from '../contract/errors.ts';
import type { S3Connection } from '../storage/s3/s3Connection.ts';
import type { Xml } from '../storage/s3/s3Messages.ts';
import { isUnsupported } from '../storage/s3/s3Refusals.ts';
import { briefly, type Report } from './finding.ts';

/** What the bucket does with deleted objects. */
export interface Kept {
  versions: boolean;
  /** Whether the bucket locks what is written to it. */
  locked: boolean;
}

const lifecycle = JSON.stringify({
  Rules: [
    {
      ...{ ID: 'lxstow', Status: 'Enabled', Filter: {} },
      NoncurrentVersionExpiration: { NoncurrentDays: 30 },
      Expiration: { ExpiredObjectDeleteMarker: true },
    },
  ],
});
const unlocked = '; backups cannot be locked (`object_lock`, `--lock`, `pin --hold`)';

export async function examineVersions(
  s3: S3Connection,
  bucket: string,
  signal: AbortSignal,
  report: Report,
): Promise<Kept> {
  const setting = (root: string, name: string) =>
    s3.ask(root, { method: 'GET', query: { [name]: '' }, signal: briefly(signal) });
  const versioning = await setting('VersioningConfiguration', 'versioning').catch((error: Error) => error);
  if (versioning instanceof Error) {
    const unsupported = isUnsupported(versioning);
    if (!unsupported) report('ok', 'this user may not see whether the bucket keeps versions');
    else report('ok', `the store keeps no versions${unlocked}`);
    return { versions: !unsupported, locked: false };
  }
  const status = versioning.Status;
  if (status !== 'Enabled') {
    report('ok', `the bucket keeps no versions: a deleted object frees its space${unlocked}`);
    return { versions: status === 'Suspended', locked: false };
  }
  const found = await setting('ObjectLockConfiguration', 'object-lock').catch((error: Error) => error);
  const lock = found instanceof Error ? {} : found;
  if (found instanceof Error && !isCode(found, 's3-denied')) report('ok', `the bucket has no Object Lock${unlocked}`);
  const { Mode: mode, Days: days, Years: years } = ((lock.Rule as Xml | undefined)?.DefaultRetention ?? {}) as Xml;
  const rules = await setting('LifecycleConfiguration', 'lifecycle').catch(() => ({}));
  const ends = /"Noncurrent(VersionExpiration|Days)"/i.test(JSON.stringify(rules));
  const [, after] = /"NoncurrentDays":"(\d+)"/i.exec(JSON.stringify(rules)) ?? [];
  const period = days === undefined ? `${years} years` : `${days} days`;
  const held = mode ? `, and nobody can remove one for ${period} (${mode})` : '';
  const what = `the bucket keeps versions${held}: what lxstow deletes stays there as an old version`;
  if (ends)
    report(
      'ok',
      `${what} until a lifecycle rule removes it${after === undefined ? '' : `, ${after} days after the deletion`}`,
    );
  else
    report(
      'warning',
      `${what}, and its space is never freed`,
      `Give it a lifecycle rule: \`aws s3api put-bucket-lifecycle-configuration --bucket ${bucket} --lifecycle-configuration '${lifecycle}'\`.`,
    );
  return { versions: true, locked: Boolean(mode) };
}
