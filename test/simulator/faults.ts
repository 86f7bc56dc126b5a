/** What goes wrong, and when: a test says it beforehand, the simulator does it once, and the story stays readable. */

/** What can be made to go wrong in each of LXD's long jobs. A hold lasts until the fault is released. */
export interface JobFaults {
  /** Writing a backup. */
  backup: {
    /** The archive is cut to so many bytes, and the operation says Success all the same. */
    cutAt?: number;
    /** The operation's progress from then on, such as `71.60MB (35.65MB/s)`. */
    progress?: string;
    /** The operation stays Running, as with a full disk. */
    hold?: true;
    /** The operation fails with this text. */
    error?: string;
  };
  /** Sending a backup, in the first answer that has the byte. */
  export: {
    /** So many bytes are announced and sent: it ends cleanly, but too early. */
    cutAt?: number;
    /** The connection is lost at this byte of the archive. */
    dropAt?: number;
    /** Nothing more is sent from this byte on. */
    holdAt?: number;
  };
  /** Taking an archive in. */
  import: {
    /** The connection is lost after so many bytes. */
    dropAt?: number;
    /** Nothing more is read after so many bytes. */
    holdAt?: number;
    /**
     * `answer`: the upload is not answered. `operation`: all is unpacked, but the operation stays Running. `record`: the same, and the instance is there, without its volume.
     */
    hold?: 'answer' | 'operation' | 'record';
    /** After so many bytes it is refused with 500 and the text in `error`; the rest is not read. */
    refuseAt?: number;
    /** The operation fails with this text, and nothing is left. */
    error?: string;
    /** It becomes what the archive names, whatever the headers ask for. */
    ignoreHeaders?: true;
  };
}

/** What can be made to go wrong with any call, before LXD looks at it. */
type CallFault = { status: number; error: string } | { drop: true } | { hold: true };

/** `GET /1.0/instances/c1`; a segment may be `*`. */
type CallName = `${'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'} /${string}`;

type ScriptOf<N> = N extends keyof JobFaults ? JobFaults[N] : CallFault;

interface Planned {
  name: string;
  after: number;
  times: number;
  fault: Fault<unknown>;
}

/** One thing that goes wrong. */
export class Fault<Script> {
  readonly script: Script;
  readonly #reached = Promise.withResolvers<void>();
  readonly #released = Promise.withResolvers<void>();

  constructor(script: Script) {
    this.script = script;
  }

  /** Resolves when it has gone wrong (for the first time). */
  get reached(): Promise<void> {
    return this.#reached.promise;
  }

  /** Lets what it holds go on as if nothing had been. */
  release(): void {
    this.#released.resolve();
  }

  /** For the simulator: it goes wrong now. */
  reach(): void {
    this.#reached.resolve();
  }

  /** For the simulator: stands still until released. Rejects with the signal's reason. */
  async hold(signal: AbortSignal): Promise<void> {
    this.reach();
    signal.throwIfAborted();
    const aborted = Promise.withResolvers<never>();
    const abort = () => aborted.reject(signal.reason);
    signal.addEventListener('abort', abort, { once: true });
    try {
      await Promise.race([this.#released.promise, aborted.promise]);
    } finally {
      signal.removeEventListener('abort', abort);
    }
  }
}

export class Faults {
  /** How long each backup takes at least, besides what goes wrong. */
  backupMs = 0;
  /** An archive that each backup is a link to, in place of one that is packed. */
  packed: string | undefined;
  readonly #planned: Planned[] = [];
  /** For models: called before LXD looks at a call, and before its answer goes out. An error thrown there loses the connection. */
  onCall: ((call: string, when: 'before' | 'after') => Promise<void>) | undefined;

  /**
   * The next backup, export, import or call goes wrong: `faults.next('export', { cutAt: 1000 })`,
   * `faults.next('GET /1.0/instances/*', { status: 500, error: 'database is locked' })`. `after` so many that go
   * well, and so many `times`. Several for the same thing take their turns.
   */
  next<N extends keyof JobFaults | CallName>(
    name: N,
    script: ScriptOf<N>,
    { after = 0, times = 1 }: { after?: number; times?: number } = {},
  ): Fault<ScriptOf<N>> {
    const fault = new Fault(script);
    this.#planned.push({ name, after, times, fault });
    return fault;
  }

  /** For the simulator: what is planned for the job that begins now, if that can go wrong so. */
  takeJob<J extends keyof JobFaults>(
    job: J,
    can: (script: JobFaults[J]) => boolean = () => true,
  ): Fault<JobFaults[J]> | undefined {
    const found = this.#take((name, script) => name === job && can(script as JobFaults[J]));
    return found as Fault<JobFaults[J]> | undefined;
  }

  /** For the simulator: what is planned for the call that came in. */
  takeCall(call: string): Fault<CallFault> | undefined {
    return this.#take((name) => matches(name, call)) as Fault<CallFault> | undefined;
  }

  #take(isIt: (name: string, script: unknown) => boolean): Fault<unknown> | undefined {
    const planned = this.#planned.find(({ name, fault }) => isIt(name, fault.script));
    if (!planned) return undefined;
    if (planned.after > 0) {
      planned.after -= 1;
      return undefined;
    }
    planned.times -= 1;
    if (planned.times <= 0) this.#planned.splice(this.#planned.indexOf(planned), 1);
    return planned.fault;
  }
}

function matches(pattern: string, call: string): boolean {
  const [wanted, given] = [pattern.split('/'), call.split('/')];
  return wanted.length === given.length && wanted.every((segment, at) => segment === '*' || segment === given[at]);
}
