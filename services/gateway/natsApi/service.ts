/** Serves the API over NATS, by request and reply; clients find it through `$SRV` (NATS's ADR-32). One gateway of the queue group answers each request. */
import { setTimeout } from 'node:timers/promises';
import {
  type Endpoint as NatsEndpoint,
  type Service,
  ServiceErrorCodeHeader,
  ServiceErrorHeader,
  Svcm,
} from '@nats-io/services';
import { type Msg, headers as natsHeaders } from '@nats-io/transport-node';
import { knownRemote } from '../../contract/config.ts';
import { asLxstowError, LxstowError } from '../../contract/errors.ts';
import { parseJson } from '../../contract/json.ts';
import { type Address, check, type Requestor, type ScheduleBody } from '../../contract/schemas.ts';
import { version } from '../../contract/version.ts';
import type { Nats } from '../../nats/connection.ts';
import { headersOf } from '../../nats/messageHeaders.ts';
import { all, apiSubject, parseApiSubject } from '../../nats/subjects.ts';
import { keepSubscribed } from '../../nats/subscriptions.ts';
import { choiceOf } from '../../runs/selector.ts';
import { type Trace, traceHeader, traceOf } from '../../telemetry/trace.ts';
import { auditOverNats, userOf } from '../access/audit.ts';
import type { GatewayParts } from '../gatewayParts.ts';
import { Shares } from '../http/shares.ts';
import type { Endpoint } from './endpoint.ts';
import { endpoints } from './endpoints.ts';

interface NatsService {
  /** Accepts no new requests; resolves when the current ones are answered, or this much time has passed. */
  drain(withinMs: number): Promise<void>;
}

const queueGroup = 'lxstow';
/** Share of NATS's largest message that a page may fill; the rest is for headers and the envelope. */
const roomShare = 0.9;
/**
 * Reply subjects that are answered. The gateway answers with its own rights: without this check a client could have an answer written over an operation's
 * record. `_R_` is an inbox in another account.
 */
const inbox = /^_(INBOX|R_)/;

/**
 * Registers every endpoint. When NATS forbids the gateway to subscribe to one, that is logged and the service ends; it begins again when NATS allows it.
 * The REST API continues.
 */
export async function serveOverNats(parts: GatewayParts): Promise<NatsService> {
  const { nats, log } = parts;
  const measured = new Map(endpoints.map((each) => [each.name, new Measure(each)]));
  const underWay = new Set<Promise<void>>();
  let service: Promise<Service> | undefined;
  let isEnded = false;
  const begin = async () => {
    await (await service)?.stop();
    const begun = await addService(parts, measured, underWay);
    void begun.stopped.then((error) => {
      if (error && !isEnded) log.error('the API over NATS has ended', { error });
      isEnded ||= error !== null;
    });
    await nats.connection.flush();
    if (isEnded && !begun.isStopped) log.info('the API over NATS is served again');
    isEnded &&= begun.isStopped;
    return begun;
  };
  const keeping = keepSubscribed(nats, isServed, () => {
    service = begin();
    service.catch((error) => log.error('the API over NATS was not begun', { error }));
  });
  await service;
  return {
    async drain(withinMs) {
      keeping[Symbol.dispose]();
      const drained = async () => {
        await (await service)?.stop();
        await Promise.all(underWay);
        await nats.connection.flush();
      };
      const gaveUp = (error: unknown) => log.warn('requests over NATS may not be answered', { error });
      await Promise.race([drained().catch(gaveUp), setTimeout(withinMs, undefined, { ref: false })]);
    },
  };
}

function isServed(subject: string): boolean {
  return subject.startsWith('$SRV.') || subject.startsWith(apiSubject(''));
}

async function addService(
  parts: GatewayParts,
  measured: Map<string, Measure>,
  underWay: Set<Promise<void>>,
): Promise<Service> {
  const { nats, log } = parts;
  const service = await new Svcm(connectionOf(nats)).add({
    name: 'lxstow',
    version,
    description: 'Backups of LXD instances, and operations',
    queue: queueGroup,
    // The library stops its clock when a handler returns, before the answer is sent.
    statsHandler: async (endpoint) => {
      const { name, stats } = endpoint as NatsEndpoint & { name: string; stats: object };
      const measure = measured.get(name);
      Object.assign(stats, measure?.stats());
      return { running: measure?.running };
    },
  });
  const api = service.addGroup('');
  for (const endpoint of endpoints) {
    const measure = measured.get(endpoint.name) ?? new Measure(endpoint);
    api.addEndpoint(endpoint.name, {
      subject: apiSubject(endpoint.subject),
      metadata: { description: endpoint.description, request: endpoint.request, answer: endpoint.answer },
      handler: (_error, given) => {
        const message = given as unknown as Msg;
        const answering = measure
          .during(() => answer(parts, endpoint, message, measure.shares))
          .catch((error) => {
            log.error('request over NATS not answered', { subject: message.subject, error });
          });
        underWay.add(answering);
        void answering.finally(() => underWay.delete(answering));
      },
    });
  }
  return service;
}

/** The library has types of an older nats-core; the methods that it calls are the same. */
function connectionOf({ connection }: Nats): ConstructorParameters<typeof Svcm>[0] {
  return connection as unknown as ConstructorParameters<typeof Svcm>[0];
}

/** Answers, writes the audit log, and returns the error that was answered. */
async function answer(
  parts: GatewayParts,
  endpoint: Endpoint,
  message: Msg,
  shares: Shares,
): Promise<LxstowError | undefined> {
  const trace = traceOf(headersOf(message).headers?.get(traceHeader));
  const about: Record<string, unknown> = { endpoint: endpoint.name };
  const error = await respond(parts, endpoint, message, shares, trace, about);
  auditOverNats(parts.audit, { message, trace, status: error?.status ?? 200, body: about });
  return error;
}

/** The fields of requests that the audit log gets. */
type Named = { id?: string; backup?: string; name?: string; definition?: ScheduleBody } & ScheduleBody;

/** Fills `about` with the fields that the audit log gets. */
async function respond(
  parts: GatewayParts,
  endpoint: Endpoint,
  message: Msg,
  shares: Shares,
  trace: Trace,
  about: Record<string, unknown>,
): Promise<LxstowError | undefined> {
  const { log, nats } = parts;
  const { subject } = message;
  if (!message.reply || !inbox.test(message.reply)) {
    log.warn('request over NATS not answered: its reply subject is not an inbox', { subject, reply: message.reply });
    return new LxstowError('bad-request', 'the reply subject is not an inbox');
  }
  const largest = nats.connection.info?.max_payload ?? 1024 * 1024;
  try {
    // The headers say which user asks.
    const { fault } = headersOf(message);
    if (fault) throw new LxstowError('bad-request', fault.message, { cause: fault });
    const address = addressOf(parts, endpoint, subject);
    using _share = shares.begin(sharerOf(message, address));
    const signal = AbortSignal.timeout(endpoint.timeoutMs);
    const question = {
      address,
      body: check(endpoint.request, parseJson(message.data, 'the request', 'bad-request'), 'request'),
      room: Math.floor(largest * roomShare),
      signal,
      trace,
      requestor: requestorOf(message),
    };
    const { id, backup, name, definition, ...body } = question.body as Named;
    const named = {
      ...(id && { id }),
      ...(backup && { backup }),
      ...(name && { name }),
      ...choiceOf(definition ?? body),
    };
    Object.assign(about, { project: question.address.project, ...named });
    const text = JSON.stringify(await endpoint.run(parts, question));
    if (Buffer.byteLength(text) > largest)
      throw new LxstowError(
        'too-large',
        `the answer is larger than NATS's max_payload of ${largest} bytes: ask over HTTPS`,
      );
    message.respond(text);
    return undefined;
  } catch (thrown) {
    const error = await parts.absences.explain(asLxstowError(thrown), false);
    const line = { subject, trace: trace.id, status: error.status, error: error.code === 'internal' ? thrown : error };
    if (error.status >= 500) log.error('request over NATS failed', line);
    else log.info('request over NATS refused', line);
    respondError(message, error);
    return error;
  }
}

function requestorOf(message: Msg): Requestor {
  const { user } = userOf(message);
  return { ...(user && { username: user }), protocol: 'nats' };
}

/**
 * Whose share of an endpoint a request takes: that of the account and user, as far as NATS tells them. Otherwise that of the host and project in the
 * subject, because a publisher has rights for few of these.
 */
function sharerOf(message: Msg, { remote, project }: Address): string {
  const { account, user } = userOf(message);
  return JSON.stringify([account, ...(user ? [user] : [remote, project])]);
}

/** Answers with an error: status and text in the headers of NATS services, our code in our own header, and all three in the body. */
function respondError(message: Msg, { code, status, message: said }: LxstowError): void {
  const text = code === 'internal' ? 'internal error; the gateway has logged its cause' : said;
  const headers = natsHeaders();
  headers.set(ServiceErrorHeader, text.replaceAll(/[\r\n]+/g, ' '));
  headers.set(ServiceErrorCodeHeader, String(status));
  headers.set('Lxstow-Error-Code', code);
  message.respond(JSON.stringify({ error: text, code, status }), { headers });
}

function addressOf({ config }: GatewayParts, { subject: pattern, allowsAll }: Endpoint, subject: string): Address {
  const { remote = '', project = '', instance } = parseApiSubject(pattern, subject);
  if (!allowsAll || remote !== all) {
    check('names.json#/$defs/remoteName', remote, 'remote');
    knownRemote(remote, Object.keys(config.remotes));
  }
  if (!allowsAll || project !== all) check('names.json#/$defs/projectName', project, 'project');
  if (instance !== undefined) check('names.json#/$defs/instanceName', instance, 'instance');
  return { remote, project, instance: instance ?? '' };
}

/** What an endpoint's requests share: its limits, and its statistics in the words of `$SRV.STATS`. */
class Measure {
  readonly shares: Shares;
  running = 0;
  #requests = 0;
  #errors = 0;
  #lastError: string | undefined;
  #processingMs = 0;

  constructor({ atOnce: most, atOncePerClient: mostPerClient }: Endpoint) {
    const full = `more than ${most} requests at a time: try again`;
    const ownFull = `more than ${mostPerClient} requests of this client at a time: try again`;
    this.shares = new Shares({ most, mostPerClient, full, ownFull, code: 'queue-full' });
  }

  async during(run: () => Promise<LxstowError | undefined>): Promise<void> {
    const begun = performance.now();
    this.running++;
    try {
      const error = await run();
      if (error) this.#failed(error);
    } catch (error) {
      this.#failed(error as Error);
      throw error;
    } finally {
      this.running--;
      this.#requests++;
      this.#processingMs += performance.now() - begun;
    }
  }

  #failed(error: Error): void {
    this.#errors++;
    this.#lastError = error.message;
  }

  stats(): object {
    const nanos = Math.round(this.#processingMs * 1_000_000);
    return {
      num_requests: this.#requests,
      num_errors: this.#errors,
      last_error: this.#lastError,
      processing_time: nanos,
      average_processing_time: this.#requests === 0 ? 0 : Math.round(nanos / this.#requests),
    };
  }
}
