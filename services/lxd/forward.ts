/**
 * What a server would refuse of a backup after the whole upload, known before a byte of it is sent. Judged by what the server says that it can
 * do (`api_extensions`, its drivers), never by its version: Debian 12's and 13's LXD both say 5.0.2.
 */
import type { ManifestInstance } from '../contract.ts';
import { LxstowError } from '../errors.ts';
import type { LxdClient } from './client.ts';

/** What a server says of itself in `GET /1.0`. */
export interface Abilities {
  api_extensions: string[];
  /** `driver`: `lxc`, `qemu`, `lxc | qemu`; absent for clients that may not see it. */
  environment: { driver?: string };
}

/** Keys of instances by the extension that brought them, in LXD's and Incus's doc/api-extensions.md: a server without the extension does not know them. */
export const keysOfExtensions: Readonly<Record<string, readonly string[]>> = {
  amd_sev: ['security.sev', 'security.sev.policy.es', 'security.sev.session.dh', 'security.sev.session.data'],
  boot_host_shutdown_action: ['boot.host_shutdown_action'],
  container_syscall_intercept_sysinfo: ['security.syscalls.intercept.sysinfo'],
  instance_auto_restart: ['boot.autorestart'],
  instance_generation_id: ['volatile.uuid.generation'],
  instance_protection_start: ['security.protection.start'],
  numa_cpu_placement: ['limits.cpu.nodes'],
  qemu_raw_qmp: ['raw.qemu.qmp.early', 'raw.qemu.qmp.post-start', 'raw.qemu.qmp.pre-start'],
  qemu_scriptlet: ['raw.qemu.scriptlet'],
  security_csm: ['security.csm'],
};

/** Throws lxd-refused where the server is known to refuse the instance, with every reason. */
export async function assertTakes(lxd: LxdClient, instance: ManifestInstance, signal: AbortSignal): Promise<void> {
  const reasons = reasonsToRefuse(instance, await lxd.get<Abilities>('/1.0', {}, signal));
  if (reasons.length === 0) return;
  throw new LxstowError(
    'lxd-refused',
    `${lxd.title} would refuse this backup after the upload: ${reasons.join('; ')}. Restore it onto a server that is not older than its own, or send it anyway (--anyway)`,
  );
}

/** Why a server would refuse an instance, one reason each; none where nothing speaks against it. Keys of which nothing is known pass. */
export function reasonsToRefuse(
  { type, config }: Pick<ManifestInstance, 'type' | 'config'>,
  { api_extensions, environment: { driver = '' } }: Abilities,
): string[] {
  const reasons: string[] = [];
  if (type === 'virtual-machine' && driver !== '' && !driver.includes('qemu'))
    reasons.push(`it has no driver for virtual machines (only ${driver})`);
  for (const [extension, keys] of Object.entries(keysOfExtensions)) {
    if (api_extensions.includes(extension)) continue;
    for (const key of keys)
      if (config[key] !== undefined) reasons.push(`it does not know the configuration key ${key}`);
  }
  return reasons;
}
