/** What systemd is told: how the package's unit differs here, or a unit of its own where there is no package. */
import { existsSync } from 'node:fs';
import type { Places } from './places.ts';

export interface Service {
  places: Places;
  /** How this command line is run: Node and its file. */
  program: string[];
  env: NodeJS.ProcessEnv;
  natsPort: number;
  healthPorts: number[];
  /** LXD's socket's group. */
  gid: number;
  /** The folder of backups, if the store is one. */
  folder: string | undefined;
}

export interface UnitFile {
  path: string;
  content: string;
}

const name = 'lxstow-standalone.service';
const written = '# Written by `lxstow init`; `lxstow init --undo` removes it.\n';
const packaged = ['/usr/lib/systemd/system', '/lib/systemd/system'].map((folder) => `${folder}/${name}`);

export function unitFiles(service: Service, command: string[]): UnitFile[] {
  if (packaged.some((path) => existsSync(path)))
    return [{ path: `/etc/systemd/system/${name}.d/init.conf`, content: dropIn(service, command) }];
  return [{ path: `/etc/systemd/system/${name}`, content: ownUnit(service, command) }];
}

/** The configuration has the keys of the store, so only root may read it; systemd hands it to the service. */
export function dropIn({ places, folder, gid, natsPort }: Service, command: string[]): string {
  const lines = [
    'LoadCredential=',
    'UnsetEnvironment=LXSTOW_S3_ACCESS_KEY_FILE LXSTOW_S3_SECRET_KEY_FILE',
    `SupplementaryGroups=${gid}`,
    ...(folder === undefined
      ? [`LoadCredential=lxstow.yaml:${places.config}`, 'Environment=LXSTOW_CONFIG=%d/lxstow.yaml']
      : // Files in the folder belong to a user, and that of DynamicUser is another one each time. It has no capabilities.
        [
          'DynamicUser=no',
          'User=root',
          'PrivateUsers=no',
          `ReadWritePaths=${escaped(folder)}`,
          ...(/^\/(home|root|run\/user)\//.test(folder) ? ['ProtectHome=no'] : []),
        ]),
    ...(natsPort === 4222 ? [] : ['ExecStart=', `ExecStart=${command.map(escaped).join(' ')}`]),
  ];
  return `${written}[Service]\n${lines.join('\n')}\n`;
}

export function ownUnit({ env: { PATH = '' } }: Service, command: string[]): string {
  return `${written}[Unit]
Description=lxstow: gateway and worker in one
Wants=network-online.target
After=network-online.target lxd.service snap.lxd.daemon.service incus.service
StartLimitIntervalSec=0

[Service]
ExecStart=${command.map(escaped).join(' ')}
Environment=PATH=${escaped(PATH)} MALLOC_ARENA_MAX=1 NODE_OPTIONS=--max-semi-space-size=1
Restart=always
RestartSec=5s
# EX_CONFIG: a restart does not help.
RestartPreventExitStatus=78
# SIGTERM to lxstow alone: it stops its nats-server itself, after its jobs are handed back.
KillMode=mixed
TimeoutStopSec=60s
UMask=0077
NoNewPrivileges=yes
ProtectSystem=full

[Install]
WantedBy=multi-user.target
`;
}

function escaped(text: string): string {
  const doubled = text.replaceAll('%', '%%');
  return /\s/.test(doubled) ? `"${doubled}"` : doubled;
}
