/** Reads and writes manifests. An archive without a manifest is not a backup; a manifest whose parts do not add up is refused. */
import { LxstowError, unlessMissing } from '../contract/errors.ts';
import { type BackupAddress, check, type Manifest, type ManifestInstance } from '../contract/schemas.ts';
import type { ObjectStore } from '../storage/objectStore.ts';
import { manifestKey } from './keys.ts';

export const manifestVersion = 1;
/** A slot's memory holds several blocks. lxstow itself makes them of 1 MiB. */
const largestBlockBytes = 16 * 1024 * 1024;

export function formatManifest(manifest: Manifest): Buffer {
  return Buffer.from(`${JSON.stringify(manifest)}\n`);
}

interface AttachedVolume {
  /** The device that attaches it. */
  device: string;
  pool: string;
  volume: string;
}

/** The custom volumes that an instance or its profiles attach. LXD's exports do not contain them. */
export function attachedVolumes({
  devices,
  profiles,
}: Pick<ManifestInstance, 'devices' | 'profiles'>): AttachedVolume[] {
  // A later profile's devices override those of an earlier one, and the instance's override all.
  const expanded = Object.assign({}, ...profiles.map((profile) => profile.devices), devices) as typeof devices;
  return Object.entries(expanded).flatMap(([device, { type, path, pool, source }]) =>
    type === 'disk' && path !== '/' && pool && source ? { device, pool, volume: source } : [],
  );
}

/**
 * Parses the manifest of the backup `address`. Throws bad-manifest when it is not JSON, has a newer version, does not match its schema,
 * belongs to another backup, has blocks that are too large, or has gaps between its parts.
 */
export function parseManifest(bytes: Buffer, address: BackupAddress): Manifest {
  const what = `manifest of ${address.instance}/${address.backup}`;
  const refuse = (why: string, cause?: unknown): never => {
    throw new LxstowError('bad-manifest', `${what}: ${why}`, { cause });
  };
  let value: unknown;
  try {
    value = JSON.parse(bytes.toString());
  } catch (cause) {
    return refuse('is not JSON', cause);
  }
  const version = (value as { version?: unknown } | null)?.version;
  if (typeof version === 'number' && version > manifestVersion) {
    refuse(`has version ${version}, and this lxstow reads up to ${manifestVersion}: upgrade lxstow`);
  }
  const manifest = check('manifest.json', value, what, 'bad-manifest');
  const { backup, archive } = manifest;
  for (const field of ['remote', 'project', 'instance'] as const) {
    if (backup[field] !== address[field])
      refuse(`belongs to another backup: its ${field} is ${backup[field]}, not ${address[field]}`);
  }
  if (backup.name !== address.backup) refuse(`belongs to another backup: ${backup.name}`);
  const { compression, blockSize } = archive;
  if (compression !== 'none' && blockSize > largestBlockBytes)
    refuse(`its blocks have ${blockSize} bytes; this lxstow reads up to ${largestBlockBytes}`);
  let [size, raw] = [0, 0];
  for (const [index, part] of archive.parts.entries()) {
    if (part.number !== index + 1) refuse(`part ${index + 1} is missing`);
    if (part.rawStart !== raw || part.rawEnd <= part.rawStart)
      refuse(`part ${part.number} does not begin where the one before ends`);
    raw = part.rawEnd;
    size += part.size;
  }
  if (raw !== archive.rawSize || size !== archive.size) refuse('its parts do not add up to the archive');
  return manifest;
}

/** A backup's manifest, and the ETag by which a change of it is noticed. */
export interface StoredBackup {
  manifest: Manifest;
  etag: string;
}

/** Reads the manifest of a backup from the bucket. Throws not-found, and what `parseManifest` throws. */
export async function readManifest(
  store: ObjectStore,
  prefix: string,
  address: BackupAddress,
  signal: AbortSignal,
): Promise<StoredBackup> {
  const found = await unlessMissing(() => store.read(manifestKey(prefix, address), signal));
  if (!found) throw new LxstowError('not-found', `backup ${address.instance}/${address.backup} does not exist`);
  return { manifest: parseManifest(found.body, address), etag: found.etag };
}
