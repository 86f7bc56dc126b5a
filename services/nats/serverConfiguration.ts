/** nats-server's configuration for several hosts, made from nats.conf, which has the rights of each role for a host named `local`. Pure. */
import { LxstowError } from '../contract/errors.ts';

interface ServerPlan {
  /** LXD hosts, by their names in `remotes`. */
  hosts: string[];
  /** Where the server listens: `0.0.0.0:4222`. */
  listen: string;
  /** Absolute path of the folder with the configuration, and with server.crt and server.key. */
  folder: string;
}

export interface ServerUser {
  name: string;
  /** The variable with its password in passwords.conf. */
  variable: string;
  /** The host, for a worker. */
  host?: string;
}

/** All users in the configuration. */
export function serverUsers(hosts: string[]): ServerUser[] {
  const named = (name: string) => ({ name, variable: variableOf(name) });
  return [
    named('admin'),
    named('gateway'),
    ...hosts.map((host) => ({ ...named(workerOf(host)), host })),
    named('publisher'),
  ];
}

export function serverConfiguration(template: string, { hosts, listen, folder }: ServerPlan): string {
  const worker = once(
    template,
    /^ *# The worker of the remote `local`\.[^\n]*\n(?<block> *\{ user: "worker".*?\n {6}\} \}\n)/ms,
  );
  const workers = hosts.map((host) => forHost(worker.groups?.block ?? '', host)).join('');
  const [before, after] = [template.slice(0, worker.index), template.slice(worker.index + worker[0].length)];
  const named = after.replaceAll(/^.*\.local\..*\n/gm, (line) =>
    hosts.map((host) => line.replaceAll('.local.', `.${host}.`)).join(''),
  );
  const head = once(before, /^(#[^\n]*\n)+/);
  const address = once(before, /^# Loopback[^\n]*\nlisten: [^\n]*\n/m);
  return `${before}${workers}${named}`
    .replace(address[0], () => `listen: "${listen}"\n`)
    .replace(
      head[0],
      () =>
        `# nats-server for lxstow on ${hosts.join(', ')}, made by \`lxstow nats-config\`. 2.14 or newer (docs/three-hosts.md).\n`,
    )
    .replaceAll('"/etc/nats/', () => `"${folder}/`);
}

/** The file that it includes. */
export function passwordFile(passwords: Map<ServerUser, string>): string {
  return [...passwords].map(([{ variable }, password]) => `${variable}: "${password}"\n`).join('');
}

const workerOf = (host: string) => `worker-${host}`;
/** Hosts have no underscore in their names. */
const variableOf = (user: string) => `${user.toUpperCase().replaceAll('-', '_')}_PASSWORD`;

function forHost(block: string, host: string): string {
  const user = workerOf(host);
  return block
    .replaceAll(/\.local\b/g, `.${host}`)
    .replaceAll('local_', `${host}_`)
    .replaceAll('"worker"', `"${user}"`)
    .replaceAll('$WORKER_PASSWORD', () => `$${variableOf(user)}`)
    .replaceAll('_INBOX_worker', `_INBOX_${user}`);
}

function once(text: string, pattern: RegExp): RegExpExecArray {
  const found = pattern.exec(text);
  if (!found) throw new LxstowError('internal', `nats.conf has nothing like ${pattern}`);
  return found;
}
