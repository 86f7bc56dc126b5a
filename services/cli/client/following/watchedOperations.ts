/** Watches operations: lists them once, then follows the gateway's events. */
import type { WebSocket } from 'ws';
import { isFinal } from '../../../operations/operation.ts';
import type { Gateway, ShownOperation } from '../gatewayClient.ts';
import { subjectOf } from '../names.ts';

/** Which operations to watch: those of a project, or of all projects. */
export interface OperationsScope {
  project?: string;
  allProjects?: boolean;
}

/** Lists all operations that the client may see, oldest first. */
export async function listOperations(
  gateway: Gateway,
  { project = gateway.remote.project, allProjects }: OperationsScope,
  onWarning: (text: string) => void = () => undefined,
): Promise<ShownOperation[]> {
  const query = { recursion: '1', ...(allProjects ? { 'all-projects': 'true' } : { project }) };
  const byStatus: Record<string, ShownOperation[]> = await gateway.ask('GET', ['operations'], { query, onWarning });
  return inOrder(Object.values(byStatus).flat());
}

/** If there are no events, which a proxy may block, each call lists the operations again. */
export class WatchedOperations implements Disposable {
  readonly #gateway: Gateway;
  readonly #scope: OperationsScope;
  readonly #known = new Map<string, ShownOperation>();
  readonly #events: OperationEvents;

  constructor(gateway: Gateway, scope: OperationsScope) {
    this.#gateway = gateway;
    this.#scope = scope;
    const { project = gateway.remote.project ?? 'default', allProjects } = scope;
    this.#events = new OperationEvents(gateway, (operation) => {
      const of = subjectOf(operation)?.project;
      if (allProjects || of === undefined || of === project) this.#see(operation);
    });
  }

  /** Operations that have not ended, and those that have ended since the last call; in the first call, all operations. */
  async current(): Promise<ShownOperation[]> {
    if (!this.#events.areHeard) {
      await this.#events.listen();
      // List after opening the socket, so that no change is missed between the two.
      for (const each of await listOperations(this.#gateway, this.#scope)) this.#see(each);
    }
    const found = inOrder([...this.#known.values()]);
    for (const each of found) if (isFinal(each)) this.#known.delete(each.id);
    return found;
  }

  #see(operation: ShownOperation): void {
    const known = this.#known.get(operation.id);
    if (!known || known.updated_at <= operation.updated_at) this.#known.set(operation.id, operation);
  }

  [Symbol.dispose](): void {
    this.#events[Symbol.dispose]();
  }
}

/** A gateway's events about operations that this client may see. */
export class OperationEvents implements Disposable {
  readonly #gateway: Gateway;
  readonly #see: (operation: ShownOperation) => void;
  #socket: WebSocket | undefined;

  constructor(gateway: Gateway, see: (operation: ShownOperation) => void) {
    this.#gateway = gateway;
    this.#see = see;
  }

  /** False until `listen`, and again once the socket has failed. */
  get areHeard(): boolean {
    return this.#socket !== undefined;
  }

  /** Listens to the gateway, if it can be reached. */
  async listen(): Promise<void> {
    if (this.#socket) return;
    const socket = await this.#gateway.events('operation');
    this.#socket = socket;
    const { promise: opened, resolve } = Promise.withResolvers<void>();
    socket.on('message', (data) => this.#see(JSON.parse(String(data)).metadata));
    socket.on('open', resolve);
    // It closes after an error.
    socket.on('error', () => undefined);
    socket.on('close', () => {
      this.#socket = undefined;
      resolve();
    });
    await opened;
  }

  [Symbol.dispose](): void {
    this.#socket?.terminate();
  }
}

function inOrder(operations: ShownOperation[]): ShownOperation[] {
  return operations.sort((a, b) => (a.created_at < b.created_at ? -1 : 1));
}
