/**
 * Finds out, before a byte is sent, whether a server would refuse a backup after the whole upload. Judges by what the server says that it can do
 * (`api_extensions`, its drivers), never by its version: Debian 12's and 13's LXD both say 5.0.2.
 */
import type { IndexFormat } from '../archive/tar/tarHead.ts';
import { LxstowError } from '../contract/errors.ts';
import type { ManifestInstance } from '../contract/schemas.ts';
import type { LxdClient } from './connection/client.ts';

/** What a server reports in `GET /1.0`. */
export interface Abilities {
  api_extensions: string[];
  /** `driver`: `lxc`, `qemu`, `lxc | qemu`; absent for clients that may not see it. */
  environment: { driver?: string };
}

/**
 * Instances' keys by the extension that added them, from LXD's and Incus's doc/api-extensions.md: a server without the extension does not know them.
 * `x.*` matches all that begin with `x.`.
 */
export const keysOfExtensions: Readonly<Record<string, readonly string[]>> = {
  amd_sev: ['security.sev', 'security.sev.policy.es', 'security.sev.session.dh', 'security.sev.session.data'],
  boot_host_shutdown_action: ['boot.host_shutdown_action'],
  cloud_init_ssh_keys: ['cloud-init.ssh-keys.*'],
  container_bpf_delegation: ['security.delegate_bpf', 'security.delegate_bpf.*'],
  container_syscall_intercept_finit_module: ['linux.kernel_modules.load'],
  container_syscall_intercept_sysinfo: ['security.syscalls.intercept.sysinfo'],
  instance_auto_restart: ['boot.autorestart'],
  instance_boot_mode: ['boot.mode'],
  instance_generation_id: ['volatile.uuid.generation'],
  instance_limits_oom: ['limits.memory.oom_priority'],
  instance_placement_groups: ['placement.group'],
  instance_protection_start: ['security.protection.start'],
  instance_smbios11: ['smbios11.*'],
  instance_systemd_credentials: ['systemd.credential.*', 'systemd.credential-binary.*'],
  limits_memory_hotplug: ['limits.memory.hotplug'],
  numa_cpu_placement: ['limits.cpu.nodes'],
  qemu_raw_qmp: ['raw.qemu.qmp.early', 'raw.qemu.qmp.post-start', 'raw.qemu.qmp.pre-start'],
  qemu_scriptlet: ['raw.qemu.scriptlet'],
  security_csm: ['security.csm'],
  security_iommu: ['security.iommu'],
  ubuntu_pro_guest_attach: ['ubuntu_pro.guest_attach'],
  vm_limits_cpu_pin_strategy: ['limits.cpu.pin_strategy'],
  vm_limits_max_bus_ports: ['limits.max_bus_ports'],
};

/** Devices' options by device type and the extension that added them. `x.*` matches all that begin with `x.`. */
export const optionsOfExtensions: Readonly<Record<string, Readonly<Record<string, readonly string[]>>>> = {
  disk: {
    disk_attached: ['attached'],
    disk_initial_volume_configuration: ['initial.*'],
    disk_io_bus: ['io.bus'],
    disk_io_cache: ['io.cache'],
    disk_io_threads_virtiofsd: ['io.threads'],
    disk_wwn: ['wwn'],
    vm_root_volume_attachment: ['source.snapshot', 'source.type'],
  },
  nic: {
    instances_nic_limits_priority: ['limits.priority'],
    network_txqueuelen: ['queue.tx.length'],
  },
  'unix-hotplug': {
    unix_device_hotplug_ownership_inherit: ['ownership.inherit'],
    unix_device_hotplug_subsystem_device_option: ['subsystem'],
  },
  usb: { device_usb_serial: ['busnum', 'devnum', 'serial'] },
};

/** Judges whether a server can take a backup. */
export class Forward {
  static async of(lxd: LxdClient, signal: AbortSignal): Promise<Forward> {
    return new Forward(lxd.title, await lxd.get<Abilities>('/1.0', {}, signal));
  }

  /** `title`: the server's name in errors. */
  constructor(title: string, abilities: Abilities) {
    this.#title = title;
    this.#abilities = abilities;
  }

  readonly #title: string;
  readonly #abilities: Abilities;

  /** Throws lxd-refused, with every reason, if the server is known to refuse the instance. */
  assertTakes(instance: Judged): void {
    this.#refuse(reasonsToRefuse(instance, this.#abilities));
  }

  /** Throws lxd-refused if the server is known not to read an archive's index. */
  assertReads({ version }: IndexFormat): void {
    if (version > 1 && !this.#abilities.api_extensions.includes('backup_metadata_version'))
      this.#refuse([`it does not read an index.yaml of version ${version}`]);
  }

  #refuse(reasons: string[]): void {
    if (reasons.length === 0) return;
    throw new LxstowError(
      'lxd-refused',
      `${this.#title} would refuse this backup after the upload: ${reasons.join('; ')}. Restore it to a server that is not older than the original one, or try it anyway (--anyway)`,
    );
  }
}

type Judged = Pick<ManifestInstance, 'type' | 'config' | 'devices'>;

/** Lists the reasons why a server would refuse an instance; empty if none is known. Keys that are not in the tables pass. */
function reasonsToRefuse(
  { type, config, devices }: Judged,
  { api_extensions, environment: { driver = '' } }: Abilities,
): string[] {
  const reasons: string[] = [];
  if (type === 'virtual-machine' && driver !== '' && !driver.includes('qemu'))
    reasons.push(`it has no driver for virtual machines (only ${driver})`);
  const unknownIn = (values: Record<string, string>, table: Readonly<Record<string, readonly string[]>>) =>
    Object.entries(table)
      .filter(([extension]) => !api_extensions.includes(extension))
      .flatMap(([, patterns]) =>
        Object.keys(values).filter((key) => patterns.some((pattern) => matches(key, pattern))),
      );
  for (const key of unknownIn(config, keysOfExtensions)) reasons.push(`it does not know the configuration key ${key}`);
  for (const [name, device] of Object.entries(devices))
    for (const key of unknownIn(device, optionsOfExtensions[device.type ?? ''] ?? {}))
      reasons.push(`it does not know the option ${key} of device ${name}`);
  return reasons;
}

function matches(key: string, pattern: string): boolean {
  return pattern.endsWith('*') ? key.startsWith(pattern.slice(0, -1)) : key === pattern;
}
