/** An endpoint of the API over NATS: its subject, and how a request to it is answered. */
import { LxstowError } from '../../contract/errors.ts';
import type { Address, Requestor, RunSelector, SchemaName } from '../../contract/schemas.ts';
import { all } from '../../nats/subjects.ts';
import { checkNoSecrets } from '../../runs/selector.ts';
import type { Trace } from '../../telemetry/trace.ts';
import type { GatewayParts } from '../gatewayParts.ts';

export interface Question {
  /** From the subject. `instance` is empty if the subject has none; remote and project may be `all` if the endpoint allows that. */
  address: Address;
  /** The request, which matches its schema. */
  body: unknown;
  /** Largest size of the answer in bytes. */
  room: number;
  /** Aborts when the answer would come too late. */
  signal: AbortSignal;
  trace: Trace;
  requestor: Requestor;
}

export interface Endpoint {
  /** Name shown by `nats micro`. */
  name: string;
  /** Subject after `lxstow.api.`; each name in braces is one token. */
  subject: string;
  description: string;
  request: SchemaName;
  answer: SchemaName;
  /** Whether `=all` may stand in the subject for a remote or project. */
  allowsAll?: boolean;
  /** A gateway refuses more requests than this at a time. */
  atOnce: number;
  /** Of these, one client may have so many. */
  atOncePerClient: number;
  /** How long an answer may take. */
  timeoutMs: number;
  run(parts: GatewayParts, question: Question): Promise<object>;
}

/** Functions that test whether a host or project is covered by the subject. */
export function isIn({ address }: Question): { remote: (name: string) => boolean; project: (name: string) => boolean } {
  const fits = (named: string) => (name: string) => named === all || named === name;
  return { remote: fits(address.remote), project: fits(address.project) };
}

/** The selector, limited to the host and project in the subject. Throws forbidden if it names others, or compares secrets. */
export function selectorIn<S extends RunSelector>(question: Question, selector: S): S {
  checkNoSecrets(selector);
  const { remote, project } = question.address;
  const place = isIn(question);
  const beyond = (['remotes', 'projects'] as const).find(
    (field) => !(selector[field] ?? []).every(field === 'remotes' ? place.remote : place.project),
  );
  if (beyond) throw new LxstowError('forbidden', `selector: ${beyond} has names that the subject does not cover`);
  return {
    ...selector,
    ...(remote !== all && { remotes: [remote] }),
    ...(project !== all && { projects: [project] }),
  };
}

/** As many items as fit into an answer of `room` bytes; at least one. */
export function firstFitting<A, B>(items: A[], shown: (item: A) => B, room: number): B[] {
  const fitting: B[] = [];
  let bytes = 0;
  for (const item of items) {
    const each = shown(item);
    bytes += Buffer.byteLength(JSON.stringify(each)) + 1;
    if (bytes > room && fitting.length > 0) break;
    fitting.push(each);
  }
  return fitting;
}

/** Aborts when a client's wait is over, or the gateway stops. */
export function overAfter(seconds: number, { stop }: Pick<GatewayParts, 'stop'>): AbortSignal {
  // AbortSignal.timeout accepts whole milliseconds only.
  return AbortSignal.any([AbortSignal.timeout(Math.ceil(seconds * 1000)), stop]);
}

/** Limits of endpoints that wait for something to end. */
export const longWait = { atOnce: 1000, atOncePerClient: 250, timeoutMs: 70_000 };
export const usualWaitSeconds = 30;
