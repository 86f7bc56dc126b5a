/** Backups in a store in memory. */
import { createHash, randomUUID } from 'node:crypto';
import { Catalog } from '../../services/backups/catalog.ts';
import { archiveKey, manifestKey } from '../../services/backups/keys.ts';
import { formatManifest } from '../../services/backups/manifest.ts';
import { LxstowError } from '../../services/contract/errors.ts';
import type { Manifest } from '../../services/contract/schemas.ts';
import type { ObjectStore } from '../../services/storage/objectStore.ts';
import { createLogger } from '../../services/telemetry/logger.ts';

export const place = { remote: 'local', project: 'default', instance: 'c1' };
export const log = createLogger({ level: 'error', format: 'json' }, {});
export const never = new AbortController().signal;

function manifestOf(name: string, created: string): Manifest {
  const part = { number: 1, size: 1, rawStart: 0, rawEnd: 1, sha256: 'a'.repeat(64), crc32: 'AAAAAA==' };
  return {
    version: 1,
    writer: 'lxstow test',
    operation: randomUUID(),
    backup: { name, ...place, created, tags: {} },
    archive: {
      ...{ key: archiveKey('', { ...place, backup: name }), etag: etagOf(Buffer.from(name)), size: 1, rawSize: 1 },
      ...{ compression: 'none', optimized: false, instanceOnly: false, blockSize: 1024 },
      parts: [{ ...part, etag: 'e' }],
    },
    instance: {
      ...{ architecture: 'x86_64', config: {}, devices: {}, type: 'container', pool: 'p', driver: 'btrfs' },
      ...{ profiles: [], snapshots: [] },
    },
    lxd: { version: '5.0.2' },
  };
}

export function etagOf(body: Buffer): string {
  return createHash('md5').update(body).digest('hex');
}

/** A store with backups of these names, the oldest first. */
export function storeWith(...names: string[]) {
  const objects = new Map<string, Buffer>();
  const tags = new Map<string, object>();
  const held = new Set<string>();
  for (const [index, backup] of names.entries()) {
    const address = { ...place, backup };
    objects.set(archiveKey('', address), Buffer.from(backup));
    const manifest = manifestOf(backup, new Date(Date.UTC(2026, 0, index + 1)).toISOString());
    objects.set(manifestKey('', address), formatManifest(manifest));
  }
  const bodyOf = (key: string) => {
    const body = objects.get(key);
    if (!body) throw new LxstowError('not-found', key);
    return body;
  };
  const store: Partial<ObjectStore> = {
    read: async (key) => ({ body: bodyOf(key), etag: etagOf(bodyOf(key)) }),
    stat: async (key) => ({ size: bodyOf(key).length, etag: etagOf(bodyOf(key)) }),
    async replace(key, etag, body, options) {
      if (etagOf(bodyOf(key)) !== etag) throw new LxstowError('conflict', key);
      objects.set(key, body);
      tags.set(key, options.tags);
      return etagOf(body);
    },
    tag: async (key, wanted) => void tags.set(key, wanted),
    hold: async (key, wanted) => void (wanted ? held.add(key) : held.delete(key)),
    async remove(key) {
      objects.delete(key);
      return false;
    },
    async *list(prefix) {
      for (const [key, body] of [...objects].toSorted(([a], [b]) => (a < b ? -1 : 1)))
        if (key.startsWith(prefix))
          yield { key, size: body.length, etag: etagOf(body), modified: '2026-11-01T00:00:00Z' };
    },
  };
  return { objects, tags, held, store: store as ObjectStore, catalog: new Catalog(store as ObjectStore, '', log) };
}
