/**
 * Requests over one NATS connection: one inbox for all answers, and all that is said in one turn of the event loop goes out in one
 * write. The client's own `request` makes an Error for each answer that comes, and a write of nearly each request (adr/0025).
 */
import {
  ConnectionError,
  createInbox,
  type Msg,
  type MsgHdrs,
  type NatsConnection,
  NoRespondersError,
  PermissionViolationError,
  TimeoutError,
} from '@nats-io/transport-node';

export interface AskOptions {
  headers?: MsgHdrs;
  timeoutMs?: number;
}

interface Question {
  subject: string;
  timer: NodeJS.Timeout;
  resolve(answer: Msg): void;
  reject(error: Error): void;
}

interface Word {
  subject: string;
  payload: Uint8Array | string;
  options: { reply?: string; headers?: MsgHdrs };
}

const usualTimeoutMs = 5000;

export class Asking {
  readonly #connection: NatsConnection;
  readonly #inbox: string;
  readonly #open = new Map<string, Question>();
  #listening = false;
  #asked = 0;
  #unsent: Word[] = [];

  constructor(connection: NatsConnection, inboxPrefix?: string) {
    this.#connection = connection;
    this.#inbox = createInbox(inboxPrefix);
  }

  /**
   * The answer. Rejects with the client's NoRespondersError, TimeoutError or PermissionViolationError, and with its ConnectionError
   * as soon as the connection is lost: then nobody knows whether it was heard.
   */
  ask(
    subject: string,
    payload: Uint8Array | string,
    { headers, timeoutMs = usualTimeoutMs }: AskOptions = {},
  ): Promise<Msg> {
    if (!this.#listening) this.#listen();
    const { promise, resolve, reject } = Promise.withResolvers<Msg>();
    const token = (++this.#asked).toString(36);
    const timer = setTimeout(() => this.#take(token)?.reject(new TimeoutError()), timeoutMs);
    this.#open.set(token, { subject, timer, resolve, reject });
    this.tell(subject, payload, { reply: `${this.#inbox}.${token}`, ...(headers && { headers }) });
    return promise;
  }

  /** Says it, and wants no answer here. */
  tell(subject: string, payload: Uint8Array | string, options: Word['options'] = {}): void {
    if (this.#unsent.push({ subject, payload, options }) === 1) setImmediate(() => this.flush());
  }

  /** Sends at once what is still to be sent: before the connection is closed. */
  flush(): void {
    const words = this.#unsent;
    this.#unsent = [];
    for (const { subject, payload, options } of this.#connection.isClosed() ? [] : words) {
      try {
        this.#connection.publish(subject, typeof payload === 'string' ? Buffer.from(payload) : payload, options);
      } catch (error) {
        // What NATS does not take for its size, say: whoever asked is told.
        const question = this.#take(options.reply?.slice(this.#inbox.length + 1) ?? '');
        if (!question) throw error;
        question.reject(error as Error);
      }
    }
  }

  /** The connection is lost: no answer comes any more. */
  lost(): void {
    this.#unsent = [];
    this.#refuse(new ConnectionError('the connection was lost before it answered'), () => true);
  }

  /** NATS does not let us say or hear something. */
  refused(error: Error): void {
    if (!(error instanceof PermissionViolationError) || error.operation !== 'publish') return;
    this.#refuse(error, ({ subject }) => subject === error.subject);
  }

  #listen(): void {
    this.#listening = true;
    this.#connection.subscribe(`${this.#inbox}.*`, {
      callback: (error, message) => {
        if (error) {
          // It is closed then; the next question tries anew.
          this.#listening = false;
          return this.#refuse(error, () => true);
        }
        const question = this.#take(message.subject.slice(this.#inbox.length + 1));
        if (!question) return;
        if (message.data.length === 0 && message.headers?.code === 503)
          question.reject(new NoRespondersError(question.subject));
        else question.resolve(message);
      },
    });
  }

  #take(token: string): Question | undefined {
    const question = this.#open.get(token);
    if (!question) return undefined;
    this.#open.delete(token);
    clearTimeout(question.timer);
    return question;
  }

  #refuse(error: Error, which: (question: Question) => boolean): void {
    for (const [token, question] of this.#open) if (which(question)) this.#take(token)?.reject(error);
  }
}
