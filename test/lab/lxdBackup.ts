import type { Address } from '../../services/contract/schemas.ts';
import { beginLxdBackup, type LxdBackup } from '../../services/lxd/archives/backups.ts';
import type { LxdClient } from '../../services/lxd/connection/client.ts';
import type { Waiting } from '../../services/lxd/connection/lxdOperation.ts';

/** Has LXD write a backup, and waits until it is complete. */
export async function createLxdBackup(
  lxd: LxdClient,
  address: Address,
  name: string,
  { signal, idleTimeoutMs }: Pick<Waiting, 'signal' | 'idleTimeoutMs'>,
  { optimized = false, instanceOnly = false, onProgress = (_bytes: number): unknown => undefined } = {},
): Promise<LxdBackup> {
  const backup = { name, optimized, instanceOnly };
  return (await beginLxdBackup(lxd, address, backup, { signal, idleTimeoutMs, onProgress })).made;
}
