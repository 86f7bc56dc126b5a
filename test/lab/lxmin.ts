/** A bucket as lxmin writes it: LXD's own compressed export of an instance, and what `lxc profile show` says of each of its profiles. */
import { randomUUID } from 'node:crypto';
import { Client } from 'minio';
import { stringify } from 'yaml';
import type { Address, Profile } from '../../services/contract/schemas.ts';
import { openExport } from '../../services/lxd/archives/exports.ts';
import type { LxdClient } from '../../services/lxd/connection/client.ts';
import { waitForOperation } from '../../services/lxd/connection/lxdOperation.ts';
import type { LabS3 } from './s3.ts';

interface LxminOptions {
  optimized?: boolean;
  /** `backups.compression_algorithm` of that LXD. */
  compression?: string;
  tags?: Record<string, string>;
}

const waiting = { signal: new AbortController().signal, idleTimeoutMs: 60_000 };

export function clientOf({ endpoint, accessKey, secretKey }: LabS3): Client {
  const { hostname, port } = new URL(endpoint);
  return new Client({
    endPoint: hostname,
    port: Number(port),
    useSSL: false,
    region: 'us-east-1',
    accessKey,
    secretKey,
  });
}

/** What `lxc export` fetches. */
export async function exportOf(
  lxd: LxdClient,
  instance: string,
  { optimized = false, compression = '' }: LxminOptions,
): Promise<Buffer> {
  const address: Address = { remote: 'local', project: 'default', instance };
  const name = `lxmin-${randomUUID()}`;
  const backups = `/1.0/instances/${instance}/backups`;
  const body = { name, optimized_storage: optimized, compression_algorithm: compression };
  const { operation = '' } = await lxd.call({ method: 'POST', path: backups, body, ...waiting });
  await waitForOperation(lxd, operation, waiting);
  const { size, source } = await openExport(lxd, address, name, waiting.signal);
  const bytes = Buffer.alloc(size);
  await source.fill(bytes, waiting);
  source.destroy();
  const deleted = await lxd.call({ method: 'DELETE', path: `${backups}/${name}`, ...waiting });
  await waitForOperation(lxd, deleted.operation ?? '', waiting);
  return bytes;
}

/** Puts an archive where lxmin does, with its metadata. */
export async function putArchive(
  s3: LabS3,
  key: string,
  bytes: Buffer,
  { optimized = false, tags }: LxminOptions = {},
): Promise<void> {
  const client = clientOf(s3);
  await client.putObject(s3.bucket, key, bytes, bytes.length, {
    'x-amz-meta-optimized': String(optimized),
    'x-amz-meta-compressed': 'true',
    'content-type': 'application/gzip',
  });
  if (tags) await client.setObjectTagging(s3.bucket, key, tags);
}

export async function putProfiles(s3: LabS3, lxd: LxdClient, instance: string, backup: string): Promise<void> {
  const { profiles } = await lxd.get<{ profiles: string[] }>(`/1.0/instances/${instance}`, {}, waiting.signal);
  for (const [index, name] of profiles.entries()) {
    const { description, config, devices } = await lxd.get<Profile>(`/1.0/profiles/${name}`, {}, waiting.signal);
    const shown = stringify({ config, description, devices, name, used_by: [`/1.0/instances/${instance}`] });
    const key = `${instance}/${backup}_profile_${String(index).padStart(3, '0')}_${name}.yaml`;
    await clientOf(s3).putObject(s3.bucket, key, shown);
  }
}

/** A whole backup. */
export async function writeAsLxmin(
  s3: LabS3,
  lxd: LxdClient,
  instance: string,
  backup: string,
  options: LxminOptions = {},
): Promise<void> {
  const bytes = await exportOf(lxd, instance, options);
  await putArchive(s3, `${instance}/${backup}_instance.tar.gz`, bytes, options);
  await putProfiles(s3, lxd, instance, backup);
}
