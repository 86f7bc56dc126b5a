/** Tries each permission of NATS that a role needs, without any effect. */
import { headers, type MsgHdrs } from '@nats-io/transport-node';
import type { Config } from '../contract/schemas.ts';
import {
  certificateKey,
  claimKey,
  feederLeaseKey,
  instanceKey,
  instanceLeaseKey,
  inventoryKey,
  operationKey,
  runHeadKey,
} from '../nats/bucketKeys.ts';
import type { Nats } from '../nats/connection.ts';
import { violationOf } from '../nats/failures.ts';
import {
  changesConsumer,
  consumerName,
  jobsStream,
  type Lane,
  lanes,
  noticesConsumer,
  noticesStream,
  operationsBucket,
  runsBucket,
} from '../nats/streams.ts';
import { deadSubject, freedSubject, jobSubject, noticeSubject, progressSubject, runsToken } from '../nats/subjects.ts';
import type { Report, Role } from './finding.ts';

/** The name of an instance, project or stream that does not exist. */
export const nobody = 'lxstow-doctor';
const rightsMs = 3000;

interface Probe {
  subject: string;
  headers?: MsgHdrs;
  data?: string;
}

/** No stream has this name: NATS refuses the message even if the user may publish it. */
function stored(subject: string): Probe {
  const expecting = headers();
  expecting.set('Nats-Expected-Stream', nobody);
  return { subject, headers: expecting };
}

/** A request that JetStream can only reject as malformed. */
const malformed = (subject: string): Probe => ({ subject, data: '{' });

/** With a token too many, nobody subscribes to it. */
const unheard = (subject: string): Probe => ({ subject: `${subject}.${nobody}` });

interface Probes {
  publish: Probe[];
  subscribe: string[];
}

const nothingOn = (remote: string) => ({ remote, project: nobody, instance: nobody });
const kv = (bucket: string, key: string) => stored(`$KV.lxstow_${bucket}.${key}`);
const api = (subject: string) => malformed(`$JS.API.${subject}`);
const taking = (stream: string, consumer: string): Probe[] => [
  api(`CONSUMER.MSG.NEXT.${stream}.${consumer}`),
  // In-progress acknowledgement of a message that was never delivered.
  { subject: `$JS.ACK.${stream}.${consumer}.1.0.0.0.0`, data: '+WPI' },
];

function gatewayProbes({ remotes }: Config): Probes {
  return {
    publish: [
      ...Object.keys(remotes).flatMap((remote) => [
        ...Object.values(lanes)
          .flat()
          .map((kind) => stored(jobSubject(kind, nothingOn(remote)))),
        kv('operations', operationKey(remote, nobody)),
        kv('leases', instanceLeaseKey(nothingOn(remote))),
        kv('instances', instanceKey(nothingOn(remote))),
        stored(noticeSubject(remote, nobody)),
        { subject: `lxstow.ask.${remote}.${nobody}` },
        { subject: `lxstow.nudge.${remote}.${nobody}` },
        unheard(progressSubject(remote, nobody)),
      ]),
      ...taking(`KV_${operationsBucket}`, changesConsumer),
      ...taking(`KV_${runsBucket}`, changesConsumer),
      ...taking(noticesStream, noticesConsumer),
      kv('runs', runHeadKey(nobody)),
      stored(noticeSubject(runsToken, nobody)),
      kv('leases', feederLeaseKey),
      kv('trust', certificateKey(nobody)),
      kv('schedules', nobody),
      ...['operations', 'leases', 'instances', 'runs', 'schedules', 'trust'].map((bucket) =>
        api(`STREAM.MSG.GET.KV_lxstow_${bucket}`),
      ),
      api(`STREAM.MSG.GET.${jobsStream}`),
      api(`CONSUMER.LIST.${jobsStream}`),
      ...['operations', 'instances'].map((bucket) => api(`DIRECT.GET.KV_lxstow_${bucket}`)),
      ...['operations', 'runs', 'trust'].flatMap((bucket) => [
        api(`CONSUMER.CREATE.KV_lxstow_${bucket}.${nobody}`),
        api(`CONSUMER.DELETE.KV_lxstow_${bucket}.${nobody}`),
        { subject: `$JS.FC.KV_lxstow_${bucket}.${nobody}` },
      ]),
    ],
    subscribe: [
      `lxstow.api.${nobody}`,
      ...['$SRV.PING', '$SRV.PING.lxstow', `$SRV.PING.lxstow.${nobody}`],
      progressSubject(nobody, nobody),
    ],
  };
}

function workerProbes({ worker: { remote } }: Config): Probes {
  return {
    publish: [
      kv('operations', operationKey(remote, nobody)),
      kv('checkpoints', operationKey(remote, nobody)),
      kv('leases', instanceLeaseKey(nothingOn(remote))),
      kv('leases', `janitor.${remote}`),
      kv('instances', instanceKey(nothingOn(remote))),
      kv('instances', inventoryKey(remote)),
      kv('leases', claimKey(nothingOn(nobody), nobody, nobody)),
      stored(deadSubject(jobSubject('backup', nothingOn(remote)))),
      ...Object.keys(lanes).flatMap((lane) => taking(jobsStream, consumerName(remote, lane as Lane))),
      ...['operations', 'leases', 'checkpoints', 'instances'].map((bucket) =>
        api(`STREAM.MSG.GET.KV_lxstow_${bucket}`),
      ),
      ...['operations', 'instances'].map((bucket) => api(`DIRECT.GET.KV_lxstow_${bucket}`)),
      unheard(progressSubject(remote, nobody)),
      // No job waits for this.
      { subject: freedSubject(remote), data: nobody },
    ],
    subscribe: [`lxstow.ask.${remote}.${nobody}`, `lxstow.nudge.${remote}.${nobody}`, freedSubject(remote)],
  };
}

export function probesOf(role: Role, config: Config): Probes {
  return role === 'gateway' ? gatewayProbes(config) : workerProbes(config);
}

/** Tries each permission that the role needs, without any effect. Returns whether the rest can be checked. */
export async function examineRights(nats: Nats, config: Config, role: Role, report: Report): Promise<boolean> {
  const { publish, subscribe } = probesOf(role, config);
  const refused = new Set<string>();
  const note = (error: unknown) => {
    const violation = violationOf(error);
    if (!violation) return;
    const { operation, subject } = violation;
    refused.add(`${operation === 'publish' ? 'publish' : 'subscribe'} ${subject.replaceAll(nobody, '*')}`);
  };
  for (const subject of subscribe) {
    const subscription = nats.connection.subscribe(subject, { callback: note });
    await nats.connection.flush();
    if (!subscription.isClosed()) subscription.unsubscribe();
  }
  await Promise.all(
    publish.map(async ({ subject, headers, data = '' }) => {
      await nats.connection.request(subject, data, { timeout: rightsMs, ...(headers ? { headers } : {}) }).catch(note);
    }),
  );
  const user = config.nats.user === undefined ? 'this user' : `the NATS user ${config.nats.user}`;
  if (refused.size === 0) {
    report('ok', `${user} has the rights of a ${role}`);
    return true;
  }
  const shown = [...refused].slice(0, 6).join(', ');
  report(
    'problem',
    `${user} lacks rights of a ${role}: ${shown}${refused.size > 6 ? `, and ${refused.size - 6} more` : ''}`,
    `Give it the rights that \`${role}\` has in nats.conf${role === 'worker' ? ` (with ${config.worker.remote} instead of local)` : ''}, then run \`nats-server --signal reload\`. Also set nats.inboxPrefix as nats.conf does.`,
  );
  // Without replies, every further request would time out.
  return ![...refused].some((each) => each.startsWith(`subscribe ${config.nats.inboxPrefix ?? '_INBOX'}`));
}
