/** Checks that LXD is reachable, has what lxstow needs, and has room for the largest instance's backup. Changes nothing. */
import { systemCode } from '../contract/errors.ts';
import { portOf } from '../contract/hosts.ts';
import type { RemoteConfig } from '../contract/schemas.ts';
import { LxdClient } from '../lxd/connection/client.ts';
import { defaultSocket } from '../lxd/connection/sockets.ts';
import { examinePair, examineServer, readCertificates } from './certificates.ts';
import { briefly, messageOf, type Patient, type Report } from './finding.ts';
import { examineStaging, type Pool } from './staging.ts';

interface Server {
  auth: string;
  api_extensions: string[];
  config?: Record<string, unknown>;
  environment?: { server: string; server_version: string };
}

/** Extensions that not every LXD has, and what is impossible without each. */
const wanted: [string, 'problem' | 'warning', string][] = [
  ['container_backup', 'problem', 'there are no backups at all'],
  ['projects', 'problem', 'instances cannot be listed by project'],
  ['container_backup_override_pool', 'warning', 'a backup can be restored only to its original pool'],
  ['backup_override_name', 'warning', 'a backup cannot be restored under another name'],
];

export async function examineLxd(patient: Patient, report: Report): Promise<void> {
  const { config, env, signal } = patient;
  const { remote } = config.worker;
  const settings = config.remotes[remote] ?? {};
  if (settings.url !== undefined) await examineTls(remote, settings, signal, report);
  using lxd = new LxdClient(remote, settings, env);
  let server: Server;
  try {
    server = await lxd.get<Server>('/1.0', {}, briefly(signal));
  } catch (error) {
    report('problem', messageOf(error), adviceFor(error, lxd, settings, env));
    return;
  }
  if (server.auth !== 'trusted' || !server.environment) {
    report(
      'problem',
      settings.url === undefined
        ? `${lxd.title} does not trust lxstow`
        : `the server at ${settings.url} does not trust lxstow`,
      adviceToTrust(lxd, settings),
    );
    return;
  }
  const { command: cli } = lxd;
  const { server: kind, server_version: version } = server.environment;
  report('ok', `${kind} ${version} answers for host ${remote}`);
  for (const [extension, level, without] of wanted) {
    if (!server.api_extensions.includes(extension))
      report(level, `${kind} ${version} lacks ${extension}: ${without}`, 'Use LXD 5.0, Incus 6.0, or newer.');
  }
  const pools = await lxd.get<Pool[]>('/1.0/storage-pools', { recursion: '1' }, briefly(signal));
  for (const { name, status } of pools.filter(({ status = 'Created' }) => status !== 'Created'))
    report('problem', `storage pool ${name} is ${status}`, `\`${cli} storage info ${name}\``);
  if (pools.length === 0)
    report(
      'warning',
      `${lxd.product} has no storage pool: nothing can be restored there`,
      `\`${lxd.product === 'Incus' ? 'incus admin init' : 'lxd init'}\`, or \`${cli} storage create NAME DRIVER\`.`,
    );
  else report('ok', `storage pools: ${pools.map(({ name, driver }) => `${name} (${driver})`).join(', ')}`);
  await examineStaging({ lxd, pools, volume: server.config?.['storage.backups_volume'] }, patient, report);
}

/** How to make the server trust the worker. Over HTTPS, an Incus does not identify itself to clients that it does not trust. */
function adviceToTrust({ product }: LxdClient, { url, certificate = 'CERTIFICATE' }: RemoteConfig): string {
  const [lxd, incus] = [
    `\`lxc config trust add ${certificate}\``,
    `\`incus config trust add-certificate ${certificate}\``,
  ];
  if (url === undefined) return `On that host: ${product === 'Incus' ? incus : lxd}.`;
  return `On that host, if it runs LXD: ${lxd}; if it runs Incus: ${incus}.`;
}

function adviceFor(
  error: unknown,
  lxd: LxdClient,
  { url, socket, certificate }: RemoteConfig,
  env: NodeJS.ProcessEnv,
): string {
  const { remote, product, command: cli } = lxd;
  if (url !== undefined) {
    if (/certificate/i.test(messageOf(error)))
      return `Set remotes.${remote}.serverCertificate to the certificate of ${url}: run \`${cli} info | sed -n '/BEGIN CERT/,/END CERT/p'\` there. Also check ${certificate ?? `remotes.${remote}.certificate`}.`;
    return `Check that ${product} listens at ${url}: run \`${cli} config get core.https_address\` there.`;
  }
  const why = systemCode((error as Error).cause);
  const path = socket ?? defaultSocket(remote, env);
  const group = product === 'Incus' ? 'incus-admin' : 'lxd';
  if (why === 'EACCES') return `Let this user use ${path}: \`usermod -aG ${group} USER\`, and log in again.`;
  if (why === 'ENOENT')
    return `Install LXD or Incus here, or set remotes.${remote}.socket to the path of its socket, or set remotes.${remote}.url.`;
  return product === 'Incus'
    ? 'Is Incus running? `systemctl status incus`.'
    : 'Is LXD running? `systemctl status lxd` or `snap services lxd`.';
}

async function examineTls(
  remote: string,
  { url = '', certificate, key, serverCertificate }: RemoteConfig,
  signal: AbortSignal,
  report: Report,
): Promise<void> {
  const where = `remotes.${remote}`;
  if (certificate !== undefined && key !== undefined)
    await examinePair(
      {
        what: `lxstow's certificate for LXD (${remote})`,
        files: [certificate, key],
        settings: [`${where}.certificate`, `${where}.key`],
        renew: `Make a new one, and \`lxc config trust add\` it on ${url}.`,
      },
      report,
    );
  if (serverCertificate !== undefined) await readCertificates(serverCertificate, `${where}.serverCertificate`, report);
  try {
    await examineServer(
      `the certificate of LXD (${remote})`,
      { host: new URL(url).hostname, port: portOf(url), ca: undefined, signal: briefly(signal) },
      {
        renew: `On that host: \`lxc config trust list\`; remove server.crt and server.key of LXD, restart it, and set ${where}.serverCertificate to the new one.`,
      },
      report,
    );
  } catch {
    // The next request reports it better.
  }
}
