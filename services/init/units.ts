/** Files for systemd: a drop-in for the package's unit; without the package, a whole unit. */
import { existsSync } from 'node:fs';
import { type Places, withoutLinks } from './places.ts';
import { usualNatsPort } from './ports.ts';

export interface Service {
  places: Places;
  /** The command `lxstow`: a program on the PATH, or Node and its file. */
  program: string[];
  env: NodeJS.ProcessEnv;
  natsPort: number;
  healthPorts: number[];
  /** The group that may use LXD's socket. */
  gid: number;
  /** The folder of backups without symbolic links, if the store is one. */
  folder: string | undefined;
}

export interface UnitFile {
  path: string;
  content: string;
}

export const unitName = 'lxstow-standalone.service';
const written = '# Written by `lxstow init`; `lxstow init --undo` removes it.\n';
const packaged = ['/usr/lib/systemd/system', '/lib/systemd/system'].map((folder) => `${folder}/${unitName}`);

export function isPackaged(): boolean {
  return packaged.some((path) => existsSync(path));
}

export function unitFiles(service: Service, command: string[]): UnitFile[] {
  if (isPackaged()) return [{ path: `/etc/systemd/system/${unitName}.d/init.conf`, content: dropIn(service, command) }];
  return [{ path: `/etc/systemd/system/${unitName}`, content: ownUnit(service, command) }];
}

/** The configuration has the keys of the store, so only root may read it; systemd hands it to the service. */
export function dropIn(
  { places, folder, gid, natsPort }: Service,
  command: string[],
  resolve: typeof withoutLinks = withoutLinks,
): string {
  const lines = [
    'LoadCredential=',
    'UnsetEnvironment=LXSTOW_S3_ACCESS_KEY_FILE LXSTOW_S3_SECRET_KEY_FILE',
    `SupplementaryGroups=${gid}`,
    ...(folder === undefined
      ? [
          `LoadCredential=lxstow.yaml:${places.config.replaceAll('%', '%%')}`,
          'Environment=LXSTOW_CONFIG=%d/lxstow.yaml',
        ]
      : // The folder's files need an owner that stays, and DynamicUser may be another user at each start. This root has no capabilities.
        [
          `Environment=${escaped(`LXSTOW_CONFIG=${places.config}`)}`,
          ...['DynamicUser=no', 'User=root', 'PrivateUsers=no'],
          ...sandboxAround(folder, resolve),
        ]),
    ...(natsPort === usualNatsPort ? [] : ['ExecStart=', `ExecStart=${command.map(escaped).join(' ')}`]),
  ];
  return `${written}[Service]\n${lines.join('\n')}\n`;
}

/** Read-only by `ProtectSystem=full`. The folders in /usr are for a folder of backups that is in /usr. */
const system = ['/boot', '/efi', '/etc', '/usr', ...['bin', 'lib', 'sbin', 'share'].map((name) => `/usr/${name}`)];
/** Read-only for the service, beside these. */
const readOnly = [
  ...['/home', '/media', '/mnt', '/opt', '/root', '/run', '/srv'],
  ...['backups', 'cache', 'lib', 'local', 'log', 'mail', 'opt', 'snap', 'spool'].map((name) => `/var/${name}`),
];

/** Whether one of the paths is the folder or above it. systemd follows symbolic links in its lists, so they are compared without. */
function areAbove(paths: string[], folder: string, resolve: typeof withoutLinks): boolean {
  return paths.some((path) => `${folder}/`.startsWith(`${resolve(path)}/`));
}

/** Whether `ProtectSystem=full` leaves the folder of backups writable. */
function maySealSystem(folder: string | undefined, resolve: typeof withoutLinks): boolean {
  return folder === undefined || !areAbove(system, folder, resolve);
}

/**
 * Lets the service write to the folder. systemd mounts nothing at the folder or above it: with a mount below the disk's, `umount` on the host would succeed while the service keeps the
 * disk; with one at a mount point, the service would not see a disk that is mounted later. So there is neither ReadWritePaths= nor ProtectSystem=strict.
 */
function sandboxAround(folder: string, resolve: typeof withoutLinks): string[] {
  const isFull = maySealSystem(folder, resolve);
  const listed = isFull ? readOnly : [...system, ...readOnly];
  return [
    `ProtectSystem=${isFull ? 'full' : 'no'}`,
    `ReadOnlyPaths=${listed
      .filter((path) => !areAbove([path], folder, resolve))
      .map((path) => `-${path}`)
      .join(' ')}`,
    ...(areAbove(['/home', '/root', '/run/user'], folder, resolve) ? ['ProtectHome=no'] : []),
    ...(areAbove(['/tmp', '/var/tmp'], folder, resolve) ? ['PrivateTmp=no'] : []),
  ];
}

export function ownUnit({ env: { PATH = '' }, folder }: Service, command: string[]): string {
  const isFull = maySealSystem(folder, withoutLinks);
  return `${written}[Unit]
Description=lxstow: gateway and worker in one
Wants=network-online.target
After=network-online.target lxd.service snap.lxd.daemon.service incus.service
StartLimitIntervalSec=0

[Service]
ExecStart=${command.map(escaped).join(' ')}
Environment=PATH=${escaped(PATH)} MALLOC_ARENA_MAX=1 NODE_OPTIONS=--max-semi-space-size=2
Restart=always
RestartSec=5s
# EX_CONFIG: a restart does not help.
RestartPreventExitStatus=78
# SIGTERM to lxstow alone: it stops its nats-server itself, after its jobs are handed back.
KillMode=mixed
TimeoutStopSec=60s
UMask=0077
NoNewPrivileges=yes
ProtectSystem=${isFull ? 'full' : 'no'}

[Install]
WantedBy=multi-user.target
`;
}

function escaped(text: string): string {
  const doubled = text.replaceAll('%', '%%');
  return /\s/.test(doubled) ? `"${doubled}"` : doubled;
}
