/** Watches operations: lists them once, then follows the gateway's events. */
import type { WebSocket } from 'ws';
import { isFinal } from './follow.ts';
import type { Gateway, ShownOperation } from './gatewayClient.ts';
import { subjectOf } from './names.ts';

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
  #socket: WebSocket | undefined;

  constructor(gateway: Gateway, scope: OperationsScope) {
    this.#gateway = gateway;
    this.#scope = scope;
  }

  /** Operations that have not ended, and those that have ended since the last call; in the first call, all operations. */
  async current(): Promise<ShownOperation[]> {
    if (!this.#socket) {
      await this.#listen();
      // List after opening the socket, so that no change is missed between the two.
      for (const each of await listOperations(this.#gateway, this.#scope)) this.#see(each);
    }
    const found = inOrder([...this.#known.values()]);
    for (const each of found) if (isFinal(each)) this.#known.delete(each.id);
    return found;
  }

  async #listen(): Promise<void> {
    const socket = await this.#gateway.events('operation');
    const { project = this.#gateway.remote.project ?? 'default', allProjects } = this.#scope;
    socket.on('message', (data) => {
      const operation: ShownOperation = JSON.parse(String(data)).metadata;
      const of = subjectOf(operation)?.project;
      if (allProjects || of === undefined || of === project) this.#see(operation);
    });
    await new Promise<void>((resolve) => {
      socket.on('open', () => {
        this.#socket = socket;
        resolve();
      });
      // It closes after an error.
      socket.on('error', () => undefined);
      socket.on('close', () => {
        this.#socket = undefined;
        resolve();
      });
    });
  }

  #see(operation: ShownOperation): void {
    const known = this.#known.get(operation.id);
    if (!known || known.updated_at <= operation.updated_at) this.#known.set(operation.id, operation);
  }

  [Symbol.dispose](): void {
    this.#socket?.terminate();
  }
}

function inOrder(operations: ShownOperation[]): ShownOperation[] {
  return operations.sort((a, b) => (a.created_at < b.created_at ? -1 : 1));
}
