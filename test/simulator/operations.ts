/** LXD's operations: what runs on after the answer, and is forgotten 5 s after its end. */
import { randomUUID } from 'node:crypto';
import { errorText } from '../lab/run.ts';
import { type Answer, envelope, Refusal, type Routes, refusal, sync } from './server.ts';

const forgottenAfterMs = 5_000;
/** In which of the ways that have been seen an LXD speaks of its operations. */
export interface Dialect {
  /**
   * What `wait` answers when its time is up: the running operation (Debian 12's LXD, Incus 7), or an error of code 500, `context deadline
   * exceeded`, with this HTTP status (200: Incus 6.0, LXD 6.9; 500: Debian 13's LXD). Those that answer an error do so for a failed operation too.
   */
  timedOutWait: 'operation' | { httpStatus: 200 | 500 };
  /** Whether operations tell what they work on; LXD 6.9's have `resources: {}`. */
  resources: boolean;
  /** The newest version of an index.yaml that it writes, if not asked for another, and reads. LXD 6.9: 2. */
  metadataVersion: 1 | 2;
  /** Whether archives in tar format have the volume's backup.yaml, and must have it: not so with LXD since 2026. */
  backupYaml: boolean;
}

/** Debian 12's LXD. */
export const usualDialect: Dialect = {
  timedOutWait: 'operation',
  resources: true,
  metadataVersion: 1,
  backupYaml: true,
};

const codes = { Running: 103, Success: 200, Failure: 400 } as const;

interface About {
  description: string;
  project: string;
  resources: Record<string, string[]>;
}

export class Operation {
  readonly id = randomUUID();
  readonly project: string;
  readonly ended: Promise<void>;
  readonly #about: About;
  readonly #createdAt = new Date().toISOString();
  #updatedAt = this.#createdAt;
  #status: keyof typeof codes = 'Running';
  #metadata: Record<string, unknown> | null = null;
  #error = '';

  constructor(about: About, task: (operation: Operation) => Promise<void>) {
    this.project = about.project;
    this.#about = about;
    this.ended = this.#run(task);
  }

  get path(): string {
    return `/1.0/operations/${this.id}`;
  }

  get status(): keyof typeof codes {
    return this.#status;
  }

  get error(): string {
    return this.#error;
  }

  set metadata(metadata: Record<string, unknown>) {
    this.#metadata = metadata;
    this.#updatedAt = new Date().toISOString();
  }

  toJSON(): object {
    const { description, resources } = this.#about;
    return {
      id: this.id,
      class: 'task',
      description,
      created_at: this.#createdAt,
      updated_at: this.#updatedAt,
      status: this.#status,
      status_code: codes[this.#status],
      resources,
      metadata: this.#metadata,
      may_cancel: false,
      err: this.#error,
      location: 'none',
    };
  }

  async #run(task: (operation: Operation) => Promise<void>): Promise<void> {
    await Promise.resolve(); // the answer shows it Running
    try {
      await task(this);
      this.#status = 'Success';
    } catch (error) {
      [this.#status, this.#error] = ['Failure', errorText(error)];
    }
  }
}

export class Operations {
  readonly #byId = new Map<string, Operation>();
  readonly #running = new Set<Promise<void>>();

  start(about: About, task: (operation: Operation) => Promise<void>): Operation {
    const operation = new Operation(about, task);
    this.#byId.set(operation.id, operation);
    const settled = operation.ended.then(() => {
      this.#running.delete(settled);
      setTimeout(() => this.#byId.delete(operation.id), forgottenAfterMs).unref();
    });
    this.#running.add(settled);
    return operation;
  }

  /** Throws LXD's 404. */
  get(id: string): Operation {
    const operation = this.#byId.get(id);
    if (!operation) throw new Refusal(404, 'Operation not found');
    return operation;
  }

  byStatus(project: string): Record<string, Operation[]> {
    const found = [...this.#byId.values()].filter((operation) => operation.project === project);
    return Object.groupBy(found, ({ status }) => status.toLowerCase()) as Record<string, Operation[]>;
  }

  /** As a restart of LXD does. What runs must have been aborted; resolves when it has ended. */
  async forget(): Promise<void> {
    this.#byId.clear();
    await Promise.all(this.#running);
  }
}

export function operationRoutes(operations: Operations, dialect: Dialect): Routes {
  const view = (operation: Operation) => (dialect.resources ? operation : { ...operation.toJSON(), resources: {} });
  return {
    '/1.0/operations': {
      GET({ project, query }) {
        const groups = Object.entries(operations.byStatus(project));
        const shown = (operation: Operation) => (query.get('recursion') === '1' ? view(operation) : operation.path);
        return sync(Object.fromEntries(groups.map(([status, list]) => [status, list.map(shown)])));
      },
    },
    '/1.0/operations/{id}': {
      GET: ({ param }) => sync(view(operations.get(param('id')))),
      DELETE({ param }) {
        operations.get(param('id'));
        throw new Refusal(400, "This operation can't be cancelled");
      },
    },
    '/1.0/operations/{id}/wait': {
      async GET({ param, query, signal }) {
        const operation = operations.get(param('id'));
        const timeout = query.get('timeout') ?? '-1';
        if (!/^-?\d+$/.test(timeout)) throw new Refusal(500, `strconv.Atoi: parsing "${timeout}": invalid syntax`);
        await within(operation.ended, Number(timeout), signal);
        const { timedOutWait } = dialect;
        if (timedOutWait === 'operation' || operation.status === 'Success') return sync(view(operation));
        if (operation.status === 'Running') return refusal(500, 'context deadline exceeded', timedOutWait.httpStatus);
        const code = operation.error.endsWith('not found') ? 404 : 500;
        return refusal(code, operation.error, timedOutWait.httpStatus === 200 ? 200 : code);
      },
    },
  };
}

/** Resolves with the promise, after so many seconds (never, if negative), or when the signal is aborted. */
async function within(promise: Promise<void>, seconds: number, signal: AbortSignal): Promise<void> {
  const over = Promise.withResolvers<void>();
  const timer = seconds < 0 ? undefined : setTimeout(over.resolve, seconds * 1_000);
  signal.addEventListener('abort', () => over.resolve(), { once: true });
  try {
    await Promise.race([promise, over.promise]);
  } finally {
    clearTimeout(timer);
  }
}

export function accepted(operation: Operation): Answer {
  return {
    status: 202,
    headers: { location: operation.path },
    body: {
      ...envelope({ type: 'async', metadata: operation }),
      status: 'Operation created',
      status_code: 100,
      operation: operation.path,
    },
  };
}
