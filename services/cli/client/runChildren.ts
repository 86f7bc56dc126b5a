/** Lists the children of a run, and follows them while they are running. */
import type { WebSocket } from 'ws';
import type { RunChildPage, ShownRunChild } from '../../contract/schemas.ts';
import type { Step } from '../terminal/progress.ts';
import { type Followed, isFinal, stepOf } from './follow.ts';
import type { Gateway, ShownOperation } from './gatewayClient.ts';
import { subjectOf } from './names.ts';

const pageSize = 1000;

/** All children of a run, or those in one state; at most `most`. */
export async function childrenOf(
  gateway: Gateway,
  id: string,
  state?: string,
  most = Number.POSITIVE_INFINITY,
): Promise<ShownRunChild[]> {
  const found: ShownRunChild[] = [];
  let after: string | undefined;
  do {
    const query = { limit: String(Math.min(pageSize, most - found.length)), after, state };
    const page: RunChildPage = await gateway.ask('GET', ['runs', id, 'children'], { query });
    found.push(...page.children);
    after = page.next;
  } while (after !== undefined && found.length < most);
  return found;
}

interface Child {
  /** Host and project. */
  where: string;
  instance: string;
  operation: ShownOperation;
}

/** Progress and warnings of each child, from the gateway's events. If the socket fails, some events are lost, and the next call opens another socket. */
export class RunChildren implements Disposable {
  /** The run's id. */
  readonly run: string;
  readonly #gateway: Gateway;
  readonly #changed = new Map<string, Child>();
  readonly #warned: Child[] = [];
  /** Hosts and projects of the children seen so far. If there is only one, labels leave it out. */
  readonly #seenAt = new Set<string>();
  #socket: WebSocket | undefined;

  constructor(gateway: Gateway, run: string) {
    this.#gateway = gateway;
    this.run = run;
  }

  /** Listens to the gateway, if it can be reached. */
  async listen(): Promise<void> {
    if (this.#socket) return;
    const socket = await this.#gateway.events('operation');
    this.#socket = socket;
    socket.on('message', (data) => this.#see(JSON.parse(String(data)).metadata));
    await new Promise<void>((resolve) => {
      socket.on('open', resolve);
      // It closes after an error.
      socket.on('error', () => undefined);
      socket.on('close', () => {
        this.#socket = undefined;
        resolve();
      });
    });
  }

  /** Children that have not ended, and those that ended since the last call. */
  async steps(): Promise<Step[]> {
    await this.listen();
    const steps: Step[] = [];
    for (const [id, child] of this.#changed) {
      const step = stepOf(this.#labelled(child));
      if (step.ended) this.#changed.delete(id);
      steps.push(step);
    }
    return steps;
  }

  /** Those of which an end with warnings was heard. */
  warned(): Pick<Followed, 'label' | 'operation'>[] {
    return this.#warned.map((child) => this.#labelled(child));
  }

  #labelled({ where, instance, operation }: Child) {
    return { label: this.#seenAt.size > 1 ? `${instance} (${where})` : instance, operation };
  }

  #see(operation: ShownOperation): void {
    const { id, location, metadata } = operation;
    const subject = subjectOf(operation);
    if (subject === undefined || metadata.run !== this.run) return;
    const where = `${location}, ${subject.project}`;
    this.#seenAt.add(where);
    const child = { where, instance: subject.instance, operation };
    this.#changed.set(id, child);
    if (isFinal(operation) && operation.metadata.warnings) this.#warned.push(child);
  }

  [Symbol.dispose](): void {
    this.#socket?.terminate();
  }
}
