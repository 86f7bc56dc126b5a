/** Checks NATS: version, this user's permissions, what `lxstow setup` creates, room, and what waits there. Writes only a lease, and releases it. */
import { randomBytes } from 'node:crypto';
import { until } from '../concurrency/until.ts';
import { plural, sizeText } from '../contract/amounts.ts';
import { readText } from '../contract/config.ts';
import { isCode } from '../contract/errors.ts';
import type { Config } from '../contract/schemas.ts';
import { testedNatsServer } from '../contract/version.ts';
import { Leases } from '../coordination/leases.ts';
import { countDeadLetters } from '../jobs/queueDepth.ts';
import { Bucket } from '../nats/bucket/bucket.ts';
import { instanceLeaseKey } from '../nats/bucketKeys.ts';
import { connectNats, type Nats, serversOf } from '../nats/connection.ts';
import { natsFailure, violationOf } from '../nats/failures.ts';
import { compareSetUp } from '../nats/setup.ts';
import { consumerName, jobsStream, type Lane, lanes, leasesBucket } from '../nats/streams.ts';
import { examineCa, examinePair, examineServer } from './certificates.ts';
import { answerMs, briefly, messageOf, type Patient, type Report, type Role } from './finding.ts';
import { examineRights, nobody } from './natsRights.ts';

/** Jobs older than this count as stuck: a day, and two hours for the backup. */
const oldJobHours = 26;
const fullShare = 0.8;

export async function examineNats(patient: Patient, report: Report): Promise<void> {
  const { config, roles, log } = patient;
  await examineTls(config.nats, patient.signal, report);
  let connected: Nats;
  try {
    connected = await until(
      briefly(patient.signal),
      connectNats(config.nats, 'lxstow doctor', log, { timeoutMs: answerMs }),
    );
  } catch (error) {
    report('problem', connecting(error, config.nats), adviceFor(error));
    return;
  }
  await using nats = connected;
  reportVersion(nats, report);
  for (const role of roles) {
    if (!(await examineRights(nats, config, role, report))) return;
  }
  const set = await examineSetUp(nats, config, roles, report);
  if (!set) return;
  await examineRoom(nats, config, report);
  await examineQueue(nats, config, roles, report);
}

function connecting(error: unknown, config: Config['nats']): string {
  if ((error as Error).name !== 'TimeoutError') return messageOf(error);
  return `cannot connect to NATS at ${serversOf(config)}: ${messageOf(error)}`;
}

function adviceFor(error: unknown): string {
  const message = messageOf(error);
  if (isCode(error, 'nats-unfit'))
    return 'Install nats-server 2.14 or newer: https://docs.nats.io/running-a-nats-service/introduction/installation';
  if (/authorization|authentication/i.test(message))
    return "Set nats.user and nats.password (or token, credentials, nkey) to the values in nats-server's configuration.";
  // nats.js gives this error if the server waits for TLS.
  if (/undefined error/.test(message)) return 'Set nats.tlsFirst if nats-server has `handshake_first: true`.';
  if (/certificate|tls|ssl/i.test(message))
    return "Set nats.ca to the CA of the server's certificate, and nats.servers to a name in the certificate.";
  if (/bad-config|cannot read/.test(message)) return 'Set the key to a file that this user may read.';
  return 'Check that nats-server is running there (`systemctl status nats-server`), and that nats.servers is right.';
}

function reportVersion({ connection }: Nats, report: Report): void {
  const version = connection.info?.version ?? '';
  const { host } = new URL(`x://${connection.getServer().replace(/^\w+:\/\//, '')}`);
  if (isOlder(version, testedNatsServer))
    report(
      'warning',
      `NATS ${version} at ${host} is older than ${testedNatsServer}, with which lxstow is tested`,
      'Install the newer nats-server; jobs wait while it restarts (docs/upgrade.md).',
    );
  else report('ok', `NATS ${version} at ${host}`);
}

/** Whether a version is older than another; false for a text that is not a version. */
export function isOlder(version: string, than: string): boolean {
  const [mine = [], theirs = []] = [version, than].map((text) => text.split(/[.-]/).slice(0, 3).map(Number));
  const at = mine.findIndex((part, index) => part !== theirs[index]);
  return version !== '' && Number(mine[at]) < Number(theirs[at]);
}

async function examineTls(config: Config['nats'], signal: AbortSignal, report: Report): Promise<void> {
  const { certificate, key, ca, servers, tlsFirst = false } = config;
  if (certificate !== undefined && key !== undefined)
    await examinePair(
      {
        what: "this user's certificate for NATS",
        files: [certificate, key],
        settings: ['nats.certificate', 'nats.key'],
        renew: `Put a new one in ${certificate}.`,
      },
      report,
    );
  if (ca !== undefined) {
    if (!(await examineCa("NATS's CA", { file: ca, key: 'nats.ca' }, report))) return;
  } else if (!servers.some((server) => server.startsWith('tls:'))) return;
  for (const server of servers) {
    const { hostname, port } = new URL(server.includes('://') ? server : `nats://${server}`);
    const where = `${hostname}:${port || 4222}`;
    try {
      await examineServer(
        `the certificate of NATS at ${where}`,
        {
          host: hostname,
          port: Number(port || 4222),
          ca: ca === undefined ? undefined : readText(ca, 'nats.ca'),
          greets: !tlsFirst,
          signal: briefly(signal),
        },
        {
          renew: 'Give nats-server a new one, and `nats-server --signal reload`.',
          trust: 'Set nats.ca to the CA of this certificate, and nats.servers to a name in the certificate.',
        },
        report,
      );
    } catch (error) {
      report(
        servers.length > 1 ? 'warning' : 'problem',
        `no TLS connection to NATS at ${where}: ${messageOf(error)}`,
        'Check that nats-server is running there, with `tls { … }` in its configuration.',
      );
    }
  }
}

async function examineSetUp(nats: Nats, config: Config, roles: Role[], report: Report): Promise<boolean> {
  const setUp = 'Run `lxstow setup` as the admin user of NATS; it is safe to repeat.';
  const [missing, different] = [new Set<string>(), new Set<string>()];
  for (const role of roles) {
    try {
      const found = await compareSetUp(nats, config, role === 'gateway' ? role : { remote: config.worker.remote });
      for (const each of found.missing) missing.add(each);
      for (const each of found.different) different.add(each);
    } catch (error) {
      report(
        'problem',
        messageOf(error),
        violationOf((error as Error).cause)
          ? 'Give this user the rights that nats.conf lists.'
          : isCode(error, 'nats-unavailable')
            ? "Set `jetstream { store_dir: … }` in nats-server's configuration, and enable JetStream for the account. In a cluster, more than half of the servers must run."
            : setUp,
      );
      return false;
    }
  }
  if (missing.size > 0) report('problem', `NATS has no ${[...missing].join(', ')}`, setUp);
  if (different.size > 0)
    report('warning', `differs from what \`lxstow setup\` creates: ${[...different].join('; ')}`, setUp);
  if (missing.size + different.size === 0)
    report('ok', 'JetStream is on; streams, buckets and consumers are as they should be');
  return missing.size === 0;
}

/** Tests a write by taking and releasing a lease. */
async function examineRoom(nats: Nats, config: Config, report: Report): Promise<void> {
  const room = 'Free space on the disk of jetstream.store_dir, or raise jetstream.max_file_store in nats-server.conf.';
  try {
    const key = instanceLeaseKey({
      remote: config.worker.remote,
      project: nobody,
      instance: randomBytes(6).toString('hex'),
    });
    const lease = await new Leases(new Bucket(nats, leasesBucket), config.worker.leaseTtlMs).acquire(key, {
      worker: nobody,
      operation: nobody,
    });
    await lease?.release();
  } catch (error) {
    report('problem', `NATS accepts no writes: ${messageOf(error)}`, room);
    return;
  }
  try {
    const { storage, limits } = await nats.jsm.getAccountInfo();
    if (limits.max_storage <= 0)
      report('ok', `NATS accepts writes; ${sizeText(storage)} are in use, without a limit for this account`);
    else if (storage > limits.max_storage * fullShare)
      report('warning', `NATS has used ${sizeText(storage)} of ${sizeText(limits.max_storage)}`, room);
    else report('ok', `NATS accepts writes; ${sizeText(storage)} of ${sizeText(limits.max_storage)} are in use`);
  } catch (error) {
    if (!violationOf(error)) throw natsFailure(error, 'looking for room');
    report('ok', 'NATS accepts writes; this user may not see how much space is left');
  }
}

async function examineQueue(nats: Nats, config: Config, roles: Role[], report: Report): Promise<void> {
  const letters = await countDeadLetters(nats);
  if (letters > 0)
    report(
      'warning',
      `${plural(letters, 'dead letter')} for a person to retry or discard`,
      '`lxstow dead-letters list`, then `retry` or `discard`.',
    );
  const { state } = await nats.jsm.streams.info(jobsStream);
  const remotes = roles.includes('gateway') ? Object.keys(config.remotes) : [config.worker.remote];
  for (const remote of remotes) {
    let [waiting, taken, takers] = [0, 0, 0];
    for (const lane of Object.keys(lanes)) {
      const info = await nats.jsm.consumers.info(jobsStream, consumerName(remote, lane as Lane));
      waiting += info.num_pending;
      taken += info.num_ack_pending;
      takers += info.num_waiting + info.num_ack_pending;
    }
    const said = `host ${remote}: ${waiting} jobs wait, ${taken} were taken`;
    if (waiting > 0 && takers === 0)
      report('warning', `${said}, and no worker runs`, `Start one: \`lxstow worker\` with worker.remote ${remote}.`);
    else report('ok', said);
  }
  const hours = state.messages > 0 ? (Date.now() - Date.parse(state.first_ts)) / 3_600_000 : 0;
  if (hours > oldJobHours)
    report(
      'warning',
      `the oldest job on the queue is ${Math.floor(hours)} h old`,
      '`lxstow operations list --all-projects` says what it waits for.',
    );
}
