/** LXD: reachable, able, and with room to write the backup of the largest instance. Nothing is changed. */
import type { RemoteConfig } from '../contract.ts';
import { systemCode } from '../errors.ts';
import { defaultSocket, LxdClient } from '../lxd/client.ts';
import { examinePair, judgeDates, readCertificates, shownBy } from './certificates.ts';
import { briefly, messageOf, type Patient, type Report } from './finding.ts';
import { examineStaging, type Pool } from './staging.ts';

interface Server {
  auth: string;
  api_extensions: string[];
  config?: Record<string, unknown>;
  environment?: { server: string; server_version: string };
}

/** What each is for, of those that not every LXD has. */
const wanted: [string, 'problem' | 'warning', string][] = [
  ['container_backup', 'problem', 'there are no backups at all'],
  ['projects', 'problem', 'instances cannot be asked for by project'],
  ['container_backup_override_pool', 'warning', 'a backup can be restored only into the pool that it is of'],
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
    report('problem', messageOf(error), adviceFor(error, remote, settings, env));
    return;
  }
  if (server.auth !== 'trusted' || !server.environment) {
    report(
      'problem',
      `LXD (${remote}) does not trust us`,
      `On that host: \`lxc config trust add ${settings.certificate ?? 'CERTIFICATE'}\`.`,
    );
    return;
  }
  const { server: kind, server_version: version } = server.environment;
  report('ok', `${kind} ${version} answers for remote ${remote}`);
  for (const [extension, level, without] of wanted) {
    if (!server.api_extensions.includes(extension))
      report(level, `${kind} ${version} lacks ${extension}: ${without}`, 'Use LXD 5.0 or newer.');
  }
  const pools = await lxd.get<Pool[]>('/1.0/storage-pools', { recursion: '1' }, briefly(signal));
  for (const { name, status } of pools.filter(({ status = 'Created' }) => status !== 'Created'))
    report('problem', `storage pool ${name} is ${status}`, `\`lxc storage info ${name}\``);
  if (pools.length === 0)
    report(
      'warning',
      'LXD has no storage pool: nothing can be restored there',
      '`lxd init`, or `lxc storage create NAME DRIVER`.',
    );
  else report('ok', `storage pools: ${pools.map(({ name, driver }) => `${name} (${driver})`).join(', ')}`);
  await examineStaging(lxd, pools, server.config?.['storage.backups_volume'], patient, report);
}

function adviceFor(
  error: unknown,
  remote: string,
  { url, socket, certificate }: RemoteConfig,
  env: NodeJS.ProcessEnv,
): string {
  if (url !== undefined) {
    if (/certificate/i.test(messageOf(error)))
      return `Set remotes.${remote}.serverCertificate to ${url}'s own: \`lxc info | sed -n '/BEGIN CERT/,/END CERT/p'\` there; and look at ${certificate ?? `remotes.${remote}.certificate`}.`;
    return `Does LXD listen at ${url}? There: \`lxc config get core.https_address\`.`;
  }
  const why = systemCode((error as Error).cause);
  const path = socket ?? defaultSocket(env);
  if (why === 'EACCES') return `Let this user use ${path}: \`usermod -aG lxd USER\`, and log in again.`;
  if (why === 'ENOENT')
    return `Is LXD installed here? Set remotes.${remote}.socket to where its socket is, or remotes.${remote}.url.`;
  return 'Is LXD running? `systemctl status lxd` or `snap services lxd`.';
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
      `our certificate for LXD (${remote})`,
      [certificate, key],
      [`${where}.certificate`, `${where}.key`],
      `Make a new one, and \`lxc config trust add\` it on ${url}.`,
      report,
    );
  if (serverCertificate !== undefined) await readCertificates(serverCertificate, `${where}.serverCertificate`, report);
  const { hostname, port } = new URL(url);
  try {
    const shown = await shownBy({
      host: hostname,
      port: Number(port || 8443),
      ca: undefined,
      signal: briefly(signal),
    });
    judgeDates(
      `the certificate of LXD (${remote})`,
      shown.certificate,
      `On that host: \`lxc config trust list\`; remove server.crt and server.key of LXD, restart it, and set ${where}.serverCertificate anew.`,
      report,
    );
  } catch {
    // The next question says it better.
  }
}
