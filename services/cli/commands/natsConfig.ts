/** `lxstow nats-config`: writes a nats-server's configuration for several hosts, and the files that each machine needs to reach it. */
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { mkdir, readdir, writeFile } from 'node:fs/promises';
import { isIPv6 } from 'node:net';
import { hostname } from 'node:os';
import { join, resolve } from 'node:path';
import { LxstowError } from '../../contract/errors.ts';
import { check } from '../../contract/schemas.ts';
import { passwordFile, type ServerUser, serverConfiguration, serverUsers } from '../../nats/serverConfiguration.ts';
import { selfSigned } from '../../trust/selfSigned.ts';
import { print } from '../terminal/output.ts';

interface NatsConfigOptions {
  hosts: string[];
  /** The folder to write to. It must have the same path on each machine. */
  out: string;
  /** Names and addresses of the server's machine; clients use the first. */
  server?: string[];
  port: number;
}

/** Secrets are for their owner alone; the certificate is public. */
const secret = 0o600;
const publicFile = 0o644;

/** Writes all files. If the folder already has one of them, throws conflict and writes none. */
export async function natsConfigCommand({ hosts, out, server = [], port }: NatsConfigOptions): Promise<void> {
  for (const host of hosts) check('names.json#/$defs/remoteName', host, '--hosts');
  if (new Set(hosts).size < hosts.length) throw new LxstowError('bad-request', '--hosts: a host is named twice');
  const names = server.length > 0 ? server : [hostname()];
  for (const name of names)
    if (name.includes(':') && !isIPv6(name))
      throw new LxstowError('bad-request', `--server ${name}: give a name or an address; the port is given by --port`);
  const folder = resolve(out);
  // The path is written into nats.conf, and into files that a shell reads.
  if (!/^[\w./+@-]+$/.test(folder))
    throw new LxstowError('bad-request', `--out ${folder}: choose a path of letters, digits and . _ - + @`);
  const passwords = new Map(serverUsers(hosts).map((user) => [user, randomBytes(24).toString('hex')]));
  const [first = ''] = names;
  const url = `tls://${isIPv6(first) ? `[${first}]` : first}:${port}`;
  const pair = await selfSigned({
    commonName: 'nats-server of lxstow',
    usage: 'server',
    names: [...names, 'localhost', '127.0.0.1'],
  });
  const template = readFileSync(new URL('../../../nats.conf', import.meta.url), 'utf8');
  const files: [name: string, content: string, mode: number][] = [
    ['nats.conf', serverConfiguration(template, { hosts, listen: `0.0.0.0:${port}`, folder }), secret],
    ['passwords.conf', passwordFile(passwords), secret],
    ['server.key', pair.key, secret],
    ['server.crt', pair.cert, publicFile],
    ...[...passwords].map(([user, password]): [string, string, number] => [
      `${user.name}.env`,
      environment(user, password, url, join(folder, 'server.crt')),
      secret,
    ]),
  ];
  await writeAll(folder, files);
  const rows = [
    [
      'the NATS server',
      'nats.conf passwords.conf server.key server.crt',
      `nats-server -c ${join(folder, 'nats.conf')}`,
    ],
    ['the gateway', 'gateway.env server.crt', 'lxstow gateway'],
    ...hosts.map((host) => [host, `worker-${host}.env server.crt`, 'lxstow worker']),
    ['where you administer', 'admin.env server.crt', 'lxstow setup, doctor, trust'],
    ['programs that publish jobs', 'publisher.env server.crt', 'docs/nats.md'],
  ];
  print('table', { heading: ['MACHINE', 'FILES', 'RUNS'], rows, raw: [], empty: '' });
  process.stdout.write(
    `\nThe files are in ${folder}; copy them to the same folder on each machine. They contain passwords.\n`,
  );
}

async function writeAll(folder: string, files: [name: string, content: string, mode: number][]): Promise<void> {
  try {
    await mkdir(folder, { recursive: true, mode: 0o755 });
    const there = new Set(await readdir(folder));
    const taken = files.find(([name]) => there.has(name));
    if (taken)
      throw new LxstowError(
        'conflict',
        `${join(folder, taken[0])} exists, and nothing was written: new passwords would lock out the machines that have the old ones. Choose another --out, or remove the old files`,
      );
    for (const [name, content, mode] of files) await writeFile(join(folder, name), content, { mode, flag: 'wx' });
  } catch (cause) {
    if (cause instanceof LxstowError) throw cause;
    throw new LxstowError('bad-config', `${folder} cannot be written: ${(cause as Error).message}`, { cause });
  }
}

/** The environment file of a user, for a shell and for systemd's EnvironmentFile. */
function environment({ name, host }: ServerUser, password: string, url: string, ca: string): string {
  const lines =
    name === 'publisher'
      ? // As the command `nats` reads them.
        { NATS_URL: url, NATS_CA: ca, NATS_USER: name, NATS_PASSWORD: password, NATS_INBOX_PREFIX: `_INBOX_${name}` }
      : {
          LXSTOW_NATS_SERVERS: url,
          LXSTOW_NATS_CA: ca,
          LXSTOW_NATS_USER: name,
          LXSTOW_NATS_PASSWORD: password,
          LXSTOW_NATS_INBOX_PREFIX: `_INBOX_${name}`,
          ...(host !== undefined && { LXSTOW_WORKER_REMOTE: host }),
        };
  return Object.entries(lines)
    .map(([key, value]) => `${key}=${value}\n`)
    .join('');
}
