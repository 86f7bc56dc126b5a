/** Lists the children of a run, and follows them while they are running. */
import type { RunChildPage, ShownRunChild } from '../../../contract/schemas.ts';
import { isFinal } from '../../../operations/operation.ts';
import type { Step } from '../../terminal/progress.ts';
import type { Gateway, ShownOperation } from '../gatewayClient.ts';
import { subjectOf } from '../names.ts';
import { type Followed, stepOf } from './follow.ts';
import { OperationEvents } from './watchedOperations.ts';

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
  readonly #events: OperationEvents;
  readonly #changed = new Map<string, Child>();
  readonly #warned: Child[] = [];
  /** Hosts and projects of the children seen so far. If there is only one, labels leave it out. */
  readonly #seenAt = new Set<string>();

  constructor(gateway: Gateway, run: string) {
    this.#events = new OperationEvents(gateway, (operation) => this.#see(operation));
    this.run = run;
  }

  listen(): Promise<void> {
    return this.#events.listen();
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
    this.#events[Symbol.dispose]();
  }
}
