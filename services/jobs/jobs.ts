/** Jobs as messages: publishes them, and parses and validates them. */
import { createHash } from 'node:crypto';
import { setTimeout } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import type { JetStreamPublishOptions } from '@nats-io/jetstream';
import { headers as newHeaders } from '@nats-io/transport-node';
import { LxstowError } from '../contract/errors.ts';
import { parseJson } from '../contract/json.ts';
import {
  type Address,
  type BackupJob,
  check,
  type DeleteJob,
  faultsOf,
  type JobKind,
  type PruneJob,
  type RestoreJob,
} from '../contract/schemas.ts';
import { parseOwnName } from '../lxd/ownNames.ts';
import type { Nats } from '../nats/connection.ts';
import { isNoResponders, isWrongSequence, natsFailure } from '../nats/failures.ts';
import { headersOf } from '../nats/messageHeaders.ts';
import { jobsStream, onlyDeletes } from '../nats/streams.ts';
import { jobSubject, parseJobSubject, respelled } from '../nats/subjects.ts';
import { formatTraceparent, type Trace, traceHeader } from '../telemetry/trace.ts';

interface Bodies {
  backup: BackupJob;
  restore: RestoreJob;
  delete: DeleteJob;
  prune: PruneJob;
}

/** A job: what to do, and to which instance. `unrestricted`: the restore may contain what LXD refuses in restricted projects. */
export type Job = { [K in JobKind]: { kind: K; address: Address; body: Bodies[K]; unrestricted?: boolean } }[JobKind];
export type JobOf<K extends JobKind> = Extract<Job, { kind: K }>;

/** A cluster that loses its leader accepts nothing for up to 8 s (measured on three nodes). */
const patienceMs = 8000;
const tryAgainMs = 200;

/**
 * Queues a job under the operation's id; it is durable when this resolves. Throws queue-full, or nats-unavailable. The latter is an UncertainPublish
 * if the job may be queued in spite of the error, because NATS was there but did not answer.
 */
export async function publishJob(nats: Nats, id: string, job: Job, trace?: Trace): Promise<void> {
  await publishWith(nats, id, job, trace, {});
}

/** A job that is queued or running for an instance. */
export interface Queued {
  operation: string;
  since: Date;
}

/**
 * The same, unless a job of this kind is already queued or running for the instance: then it queues nothing and returns that job. Our own job,
 * sent twice, is queued once.
 */
export async function publishUnlessQueued(
  nats: Nats,
  id: string,
  job: Job,
  trace?: Trace,
): Promise<Queued | undefined> {
  for (;;) {
    try {
      return await publishWith(nats, id, job, trace, { lastSubjectSequence: 0 });
    } catch (error) {
      if (!(error instanceof SubjectTaken)) throw error;
    }
    // NATS answers the same if the queued job is our own; only the message shows whose it is.
    const found = await lastQueuedJob(nats, job.kind, job.address);
    if (found) return found.operation === id ? undefined : found;
  }
}

/** The last job of this kind that is queued or running for this instance. */
export async function lastQueuedJob(nats: Nats, kind: JobKind, address: Address): Promise<Queued | undefined> {
  const query = { last_by_subj: jobSubject(kind, address) };
  const last = await nats.ask('looking at the queue', () => nats.jsm.streams.getMessage(jobsStream, query));
  if (!last) return undefined;
  const messageId = headersOf(last).headers?.get('Nats-Msg-Id');
  return { operation: operationIdOf({ messageId, sequence: last.seq }), since: last.time };
}

class SubjectTaken extends Error {}

async function publishWith(
  nats: Nats,
  id: string,
  { kind, address, body, unrestricted = false }: Job,
  trace: Trace | undefined,
  expect: JetStreamPublishOptions['expect'],
): Promise<undefined> {
  nats.assertConnected();
  const source = 'source' in body && body.source ? { ...address, ...body.source } : address;
  const subject = jobSubject(kind, address, source, { unrestricted });
  const headers = newHeaders();
  if (trace) headers.set(traceHeader, formatTraceparent(trace));
  const options = { msgID: id, expect: { streamName: jobsStream, ...expect }, headers };
  const until = performance.now() + patienceMs;
  let uncertain = false;
  for (;;) {
    try {
      // The stream drops a repeat with the same id as a duplicate.
      await nats.whileConnected(() => nats.js.publish(subject, JSON.stringify(body), options));
      return undefined;
    } catch (error) {
      if (isWrongSequence(error)) throw new SubjectTaken();
      const failure = natsFailure(error, 'queueing the job');
      if (failure.code !== 'nats-unavailable') throw failure;
      // Without a connection or a responder, NATS cannot have stored the job.
      uncertain ||= !(error instanceof LxstowError) && !isNoResponders(error);
      if (performance.now() >= until) throw uncertain ? new UncertainPublish(id, failure) : failure;
    }
    await setTimeout(tryAgainMs);
  }
}

/** NATS may have stored the job: it went away before its ack. */
export class UncertainPublish extends LxstowError {
  /** The message names the operation, by which the client sees that something may have been started. */
  constructor(operation: string, cause: LxstowError) {
    const doubt = `the job was not confirmed, and will be withdrawn unless operation ${operation} has begun`;
    super('nats-unavailable', `${cause.message}; ${doubt}`, { cause });
  }
}

/** A message as the stream delivered it. */
interface RawJob {
  subject: string;
  data: Uint8Array;
  messageId: string | undefined;
  sequence: number;
}

/**
 * The operation's id: the message's own id if that can be read and is a UUID, otherwise one derived from its sequence in the stream, which is the same at
 * each delivery.
 */
export function operationIdOf({ messageId, sequence }: Pick<RawJob, 'messageId' | 'sequence'>): string {
  if (messageId && faultsOf('names.json#/$defs/uuid', messageId).length === 0) return messageId;
  return uuid5(`${jobsStream}:${sequence}`);
}

const schemas = {
  backup: 'job-backup.json',
  restore: 'job-restore.json',
  delete: 'job-delete.json',
  prune: 'job-prune.json',
} as const satisfies Record<JobKind, string>;

export function isJobKind(word: string): word is JobKind {
  return word in schemas;
}

/** Parses the job in a message. Throws bad-message, naming the fault. */
export function parseJob({ subject, data }: Pick<RawJob, 'subject' | 'data'>): Job {
  const named = parseJobSubject(subject);
  if (!named)
    throw new LxstowError('bad-message', `subject ${subject} is not lxstow.jobs.<remote>.<kind>.<project>.<instance>`);
  if (respelled(subject) !== subject)
    throw new LxstowError('bad-message', `subject ${subject} must be spelled ${respelled(subject)}`);
  const { kind, source, unrestricted, ...address } = named;
  if (!isJobKind(kind))
    throw new LxstowError('bad-message', `subject ${subject}: there is no kind of job ${JSON.stringify(kind)}`);
  for (const each of source ? [address, source] : [address]) checkNames(each);
  if (parseOwnName(address.instance) && !onlyDeletes(kind))
    throw new LxstowError('bad-message', `the name ${address.instance} is reserved for lxstow`);
  const body = check(
    schemas[kind],
    parseJson(data, 'the message', 'bad-message'),
    `${kind} job for ${address.instance}`,
    'bad-message',
  );
  const job = { kind, address, body, ...(unrestricted && { unrestricted }) } as Job;
  return job.kind === 'restore' ? { ...job, body: { ...job.body, source: sourceOf(job, source ?? address) } } : job;
}

/** Whether an operation's request is this job's. A publisher could name the id of an operation that asks for something else. */
export function isRequestOf({ kind, address, body }: Job, request: { source?: Partial<Address> }): boolean {
  const { requestor: _, ...asked } = body;
  const meant = kind === 'restore' ? { ...request, source: { ...address, ...request.source } } : request;
  return isDeepStrictEqual(meant, asked);
}

/** The instance whose backup a restore reads: the one in the subject, because NATS has checked the publisher's rights on that. */
function sourceOf({ kind, address, body, unrestricted = false }: JobOf<'restore'>, named: Address): Address {
  const meant = { ...address, ...(body.source ?? named) };
  const isNamed = (['remote', 'project', 'instance'] as const).every((key) => meant[key] === named[key]);
  if (isNamed) return named;
  const subject = jobSubject(kind, address, meant, { unrestricted });
  throw new LxstowError('bad-message', `a restore of a backup of ${meant.instance} must be published to ${subject}`);
}

function checkNames({ remote, project, instance }: Address): void {
  check('names.json#/$defs/remoteName', remote, 'remote', 'bad-message');
  check('names.json#/$defs/projectName', project, 'project', 'bad-message');
  check('names.json#/$defs/instanceName', instance, 'instance', 'bad-message');
}

/** Counts this instance's jobs of this kind, queued or running. */
export async function countQueuedJobs(nats: Nats, kind: JobKind, address: Address): Promise<number> {
  const subject = jobSubject(kind, address);
  const ask = () => nats.jsm.streams.info(jobsStream, { subjects_filter: subject });
  const { state } = await nats.ask('looking for queued jobs', ask);
  return state.subjects?.[subject] ?? 0;
}

/** RFC 9562, version 5, in the namespace of URLs. */
export function uuid5(name: string): string {
  const namespace = Buffer.from('6ba7b8119dad11d180b400c04fd430c8', 'hex');
  const hash = createHash('sha1').update(namespace).update(name).digest().subarray(0, 16);
  hash.writeUInt8((hash.readUInt8(6) & 0x0f) | 0x50, 6);
  hash.writeUInt8((hash.readUInt8(8) & 0x3f) | 0x80, 8);
  return hash.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}
