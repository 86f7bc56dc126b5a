/**
 * Questions to a remote's workers about what is in its LXD. A reply is one gzipped message. A list that is too long for one comes page by page; any
 * worker of the remote answers each page.
 */
import { promisify } from 'node:util';
import { gunzip, gzip } from 'node:zlib';
import { type Msg, TimeoutError } from '@nats-io/transport-node';
import { Semaphore } from '../concurrency/semaphore.ts';
import { asLxstowError, type ErrorCode, isCode, LxstowError } from '../contract/errors.ts';
import { check } from '../contract/schemas.ts';
import type { LxdInstance, LxdObject } from '../lxd/inventory.ts';
import { type Nats, respond } from '../nats/connection.ts';
import { isNoResponders, natsFailure } from '../nats/failures.ts';
import { askSubject } from '../nats/subjects.ts';
import { listen } from '../nats/subscriptions.ts';

/** Without `projects`: all. `after`: the last instance of the previous page. */
interface InstancesQuestion {
  kind: 'instances';
  projects?: string[];
  full: boolean;
  after?: { project: string; name: string };
}

export type InventoryQuestion =
  | InstancesQuestion
  | { kind: 'instance'; project: string; instance: string; full: boolean }
  | { kind: 'state'; project: string; instance: string }
  | { kind: 'projects' }
  | { kind: 'pools' };

interface Page {
  items: LxdObject[];
  /** More items may follow. */
  more: boolean;
}

/** How a worker finds the answer: the objects, or none if the requested one does not exist. A list of instances may leave out those up to `after`, and those after the page. */
type Inventory = (question: InventoryQuestion, signal: AbortSignal) => Promise<LxdObject[]>;

const queueGroup = 'lxstow';
/** Room in a message for its subject and headers. */
const besidesPayloadBytes = 8 * 1024;
/** Characters of a failure's text. */
const longestFailure = 500;
/** Bytes of a page before gzip, which packs it to about a tenth. */
export const largestPageBytes = 16 * 1024 * 1024;
/** No client waits longer, so the worker stops too. */
const longestAnswerMs = 20_000;
/** Lists that a worker makes at a time: they may be large. */
const listsAtOnce = 2;
const [pack, unpack] = [promisify(gzip), promisify(gunzip)];

/** Asks page by page; returns all objects. Throws no-worker if no worker is up or none answers in time, and the error that the worker sent. */
export async function askInventory(
  nats: Nats,
  remote: string,
  question: InventoryQuestion,
  timeoutMs: number,
): Promise<LxdObject[]> {
  const found: LxdObject[] = [];
  const until = performance.now() + timeoutMs;
  for (let next = question; ; ) {
    const { items, more } = await askPage(nats, remote, next, Math.max(1, Math.round(until - performance.now())));
    found.push(...items);
    const last = items.at(-1) as LxdInstance | undefined;
    if (!more || next.kind !== 'instances' || !last) return found;
    next = { ...next, after: { project: last.project, name: last.name } };
  }
}

/** The same, but a host that does not have all of a question's projects answers with the instances of those that it has. */
export async function askInProjects(
  nats: Nats,
  remote: string,
  question: InventoryQuestion,
  timeoutMs: number,
): Promise<LxdObject[]> {
  try {
    return await askInventory(nats, remote, question, timeoutMs);
  } catch (error) {
    // LXD refuses the whole list if one of the projects does not exist there.
    const isRefused = isCode(error, 'not-found') || isCode(error, 'lxd-refused');
    if (question.kind !== 'instances' || !question.projects || !isRefused) throw error;
    const { projects, ...all } = question;
    const found = await askInventory(nats, remote, all, timeoutMs);
    return found.filter(({ project }) => projects.includes(String(project)));
  }
}

async function askPage(nats: Nats, remote: string, question: InventoryQuestion, timeout: number): Promise<Page> {
  let packed: Uint8Array;
  try {
    const ask = () => nats.connection.request(askSubject(remote, 'inventory'), JSON.stringify(question), { timeout });
    packed = (await nats.whileConnected(ask)).data;
  } catch (error) {
    if (error instanceof TimeoutError)
      throw new LxstowError('no-worker', `no worker of host ${remote} answered in time`, { cause: error });
    if (isNoResponders(error))
      throw new LxstowError('no-worker', `no worker of host ${remote} is up`, { cause: error });
    throw natsFailure(error, `asking a worker of ${remote}`);
  }
  const text = await unpack(packed, { maxOutputLength: 2 * largestPageBytes });
  const answer = JSON.parse(text.toString()) as Page | { failure: { code: ErrorCode; message: string } };
  if ('failure' in answer) throw new LxstowError(answer.failure.code, answer.failure.message);
  return answer;
}

/** Answers until the signal aborts. */
export function answerInventory(nats: Nats, remote: string, inventory: Inventory, signal: AbortSignal): void {
  const lists = new Semaphore(listsAtOnce);
  const largest = () => (nats.connection.info?.max_payload ?? 1024 * 1024) - besidesPayloadBytes;
  const answer = async (data: Uint8Array): Promise<Buffer> => {
    try {
      const question = parseQuestion(data);
      const timeout = AbortSignal.timeout(longestAnswerMs);
      if (question.kind !== 'instances') return await packOne(await inventory(question, timeout), largest());
      using _place = await lists.take(timeout);
      return await packPage(behind(question.after, (await inventory(question, timeout)) as LxdInstance[]), largest());
    } catch (error) {
      const { code, message } = asLxstowError(error);
      return await pack(JSON.stringify({ failure: { code, message: message.slice(0, longestFailure) } }));
    }
  };
  const hear = (message: Msg) => void answer(message.data).then((packed) => respond(nats, message, packed));
  const listening = listen(nats, askSubject(remote, 'inventory'), hear, queueGroup);
  signal.addEventListener('abort', () => listening[Symbol.dispose](), { once: true });
}

function parseQuestion(data: Uint8Array): InventoryQuestion {
  const question = JSON.parse(new TextDecoder().decode(data)) as InventoryQuestion;
  const project = (name: string) => check('names.json#/$defs/projectName', name, 'project');
  switch (question.kind) {
    case 'instances':
      question.projects?.forEach(project);
      break;
    case 'instance':
    case 'state':
      project(question.project);
      check('names.json#/$defs/instanceName', question.instance, 'instance');
      break;
    case 'projects':
    case 'pools':
      break;
    default:
      throw new LxstowError('bad-message', 'a question that this worker does not know; is it older than the gateway?');
  }
  return question;
}

function behind(after: InstancesQuestion['after'], instances: LxdInstance[]): LxdInstance[] {
  if (!after) return instances;
  return instances.filter(
    ({ project, name }) => project > after.project || (project === after.project && name > after.name),
  );
}

async function packOne(items: LxdObject[], largest: number): Promise<Buffer> {
  const packed = await pack(JSON.stringify({ items, more: false }));
  if (packed.length > largest) throw new LxstowError('too-large', 'the answer of LXD is too large');
  return packed;
}

/**
 * Packs as many items as one message takes. If the items exceed a page, the list was cut after the last of them, which may be larger than a page by
 * itself: more may follow.
 */
async function packPage(items: LxdInstance[], largest: number): Promise<Buffer> {
  let [count, bytes] = [0, 0];
  for (const item of items) {
    bytes += Buffer.byteLength(JSON.stringify(item));
    if (count > 0 && bytes > largestPageBytes) break;
    count++;
  }
  const isCut = bytes > largestPageBytes;
  for (;;) {
    const packed = await pack(JSON.stringify({ items: items.slice(0, count), more: count < items.length || isCut }));
    if (packed.length <= largest) return packed;
    if (count <= 1)
      throw new LxstowError('too-large', `LXD's description of instance ${items[0]?.name} is too large for a message`);
    count = Math.max(1, Math.floor((count * largest * 0.9) / packed.length));
  }
}
