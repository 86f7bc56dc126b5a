/** Checks Node.js, and the configuration for contradictions. Unknown keys were found when it was read. */

import { stat } from 'node:fs/promises';
import { isIP } from 'node:net';
import { openIsal } from '../archive/compression/isal.ts';
import { withoutBrackets } from '../contract/hosts.ts';
import type { Config, RemoteConfig } from '../contract/schemas.ts';
import { oldestNode } from '../contract/version.ts';
import { ackWaitMs } from '../nats/streams.ts';
import { messageOf, type Patient, type Report } from './finding.ts';

export function examineNode(report: Report, version = process.versions.node): void {
  if (Number(version.split('.')[0]) >= oldestNode) report('ok', `Node.js ${version}`);
  else
    report(
      'problem',
      `Node.js ${version}: lxstow needs ${oldestNode} or newer`,
      'Install it: https://nodejs.org/en/download',
    );
}

/** Always ok: readers see the same archive either way. */
export function examineGzip({ gzip: { library } }: Config, report: Report): void {
  try {
    if (library !== '') openIsal(library);
    report('ok', library === '' ? 'gzip uses zlib, because gzip.library is empty' : `gzip uses ISA-L, ${library}`);
  } catch (error) {
    report(
      'ok',
      `gzip uses zlib, which takes three times the CPU time of ISA-L (Debian: libisal2): ${messageOf(error)}`,
    );
  }
}

export async function examineConfiguration({ config, roles }: Patient, report: Report): Promise<void> {
  let well = true;
  const say: Report = (...finding) => {
    well = false;
    report(...finding);
  };
  examineNatsKeys(config.nats, say);
  examineS3Keys(config.s3, say);
  if (roles.includes('gateway')) examineNotify(config.notify, say);
  for (const [name, remote] of Object.entries(config.remotes)) examineRemote(`remotes.${name}`, remote, say);
  if (roles.includes('gateway')) examinePorts(config, roles.length > 1, say);
  examineHeartbeat(config.worker, say);
  if (well) report('ok', 'no key contradicts another');
}

function examinePairOf(where: string, { certificate, key }: { certificate?: string; key?: string }, say: Report): void {
  if ((certificate === undefined) !== (key === undefined))
    say(
      'problem',
      `${where} has only one of certificate and key`,
      `Set ${where}.certificate and ${where}.key together.`,
    );
}

function examineNatsKeys(nats: Config['nats'], say: Report): void {
  examinePairOf('nats', nats, say);
  const ways = (['user', 'token', 'credentials', 'nkey'] as const).filter((way) => nats[way] !== undefined);
  if (ways.length > 1)
    say(
      'problem',
      `nats has ${ways.map((way) => `nats.${way}`).join(' and ')}`,
      'Keep only the one that nats-server requires.',
    );
  if (nats.password !== undefined && nats.user === undefined)
    say('problem', 'nats.password is set without nats.user', 'Set nats.user.');
  if (nats.replicas % 2 === 0)
    say(
      'warning',
      `nats.replicas is ${nats.replicas}, which tolerates no more failures than ${nats.replicas - 1} would`,
      'Set nats.replicas to 1, 3 or 5, and run `lxstow setup`.',
    );
}

function examineS3Keys(s3: Config['s3'], say: Report): void {
  const { protocol, hostname, host } = new URL(s3.endpoint);
  if (protocol !== 'http:') return;
  if (s3.ca !== undefined)
    say('warning', 's3.ca is set, but s3.endpoint is http://', 'Set s3.endpoint to https://…, or remove s3.ca.');
  if (!isHere(hostname))
    say(
      'warning',
      `backups go to ${host} unencrypted`,
      'Set s3.endpoint to https://…, unless you trust the network in between.',
    );
}

function examineRemote(where: string, remote: RemoteConfig, say: Report): void {
  examinePairOf(where, remote, say);
  if (remote.url !== undefined && remote.socket !== undefined)
    say('problem', `${where} has both url and socket: lxstow uses the url`, `Remove ${where}.socket or ${where}.url.`);
  const unused = (['certificate', 'key', 'serverCertificate'] as const).filter((key) => remote[key] !== undefined);
  if (remote.url === undefined && unused.length > 0)
    say(
      'warning',
      `${where} has ${unused.join(', ')}, which a socket does not need`,
      `Set ${where}.url, or remove them.`,
    );
}

/** `both`: gateway and worker run on this host. */
function examinePorts({ gateway, worker }: Config, both: boolean, say: Report): void {
  const advice = 'Set one of them to another port.';
  examinePairOf('gateway', gateway, say);
  const { port, healthPort } = gateway;
  if (both && healthPort !== 0 && healthPort === worker.healthPort)
    say('problem', `gateway.healthPort and worker.healthPort are both ${healthPort}`, advice);
  if (healthPort === port && port !== 0) say('problem', `gateway.port and gateway.healthPort are both ${port}`, advice);
}

function examineHeartbeat({ heartbeatMs, leaseTtlMs }: Config['worker'], say: Report): void {
  // The lease must outlast one missed heartbeat.
  if (heartbeatMs * 2 > leaseTtlMs)
    say(
      'problem',
      `worker.heartbeatMs (${heartbeatMs}) is not well below worker.leaseTtlMs (${leaseTtlMs}): leases will be lost`,
      'Set worker.heartbeatMs to a third of worker.leaseTtlMs.',
    );
  if (heartbeatMs >= ackWaitMs)
    say(
      'problem',
      `worker.heartbeatMs is ${heartbeatMs}: after ${ackWaitMs} ms of silence NATS gives a job to another worker`,
      'Set worker.heartbeatMs to 3000.',
    );
}

function examineNotify({ endpoints, secret, ca }: Config['notify'], say: Report): void {
  if (endpoints.length > 0 && secret === undefined)
    say(
      'warning',
      'notices are not signed: anyone who knows the URL of a webhook can send it forged notices',
      'Set notify.secret to what `echo whsec_$(openssl rand -base64 32)` prints, here and in the receivers.',
    );
  for (const endpoint of endpoints) {
    const { protocol, origin, hostname } = new URL(endpoint);
    if (protocol === 'http:' && !isHere(hostname))
      say('warning', `notices go to ${origin} unencrypted`, 'Set it to https://… in notify.endpoints.');
  }
  if (ca !== undefined && endpoints.length > 0 && endpoints.every((endpoint) => endpoint.startsWith('http:')))
    say('warning', 'notify.ca is set, but notify.endpoints are http://', 'Set them to https://…, or remove notify.ca.');
}

/** Warns if other users may read a file with secrets. */
export async function examineFile(file: string, hasSecrets: boolean, report: Report): Promise<void> {
  const { mode } = await stat(file);
  if (hasSecrets && (mode & 0o004) !== 0)
    report('warning', `every user of this host may read ${file}, and the secrets in it`, `chmod o-r ${file}`);
  else report('ok', `the configuration is in ${file}`);
}

function isHere(hostname: string): boolean {
  const host = withoutBrackets(hostname);
  return host === 'localhost' || host === '::1' || (isIP(host) === 4 && host.startsWith('127.'));
}
