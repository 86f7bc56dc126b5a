/**
 * Request-reply over one NATS connection, with one inbox for all replies. All messages of one turn of the event loop go out in one write. The
 * client's own `request` creates an Error for each reply, and makes a write for nearly each request (adr/0025).
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
   * Resolves with the reply. Rejects with the client's NoRespondersError, TimeoutError or PermissionViolationError, and with its ConnectionError as
   * soon as the connection is lost: the request may or may not have arrived.
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

  /** Publishes in this turn's write; does not wait for a reply. */
  tell(subject: string, payload: Uint8Array | string, options: Word['options'] = {}): void {
    if (this.#unsent.push({ subject, payload, options }) === 1) setImmediate(() => this.flush());
  }

  /** Sends the buffered messages now, before the connection is closed. */
  flush(): void {
    const words = this.#unsent;
    this.#unsent = [];
    for (const { subject, payload, options } of this.#connection.isClosed() ? [] : words) {
      try {
        this.#connection.publish(subject, typeof payload === 'string' ? Buffer.from(payload) : payload, options);
      } catch (error) {
        // The client refuses a message that is too large, say: reject its request.
        const question = this.#take(options.reply?.slice(this.#inbox.length + 1) ?? '');
        if (!question) throw error;
        question.reject(error as Error);
      }
    }
  }

  /** Drops unsent messages and rejects all open requests: the connection is lost. */
  lost(): void {
    this.#unsent = [];
    this.#refuse(new ConnectionError('the connection was lost before it answered'), () => true);
  }

  /** Rejects the open requests whose subject this user may not publish to. */
  refused(error: Error): void {
    if (!(error instanceof PermissionViolationError) || error.operation !== 'publish') return;
    this.#refuse(error, ({ subject }) => subject === error.subject);
  }

  #listen(): void {
    this.#listening = true;
    this.#connection.subscribe(`${this.#inbox}.*`, {
      callback: (error, message) => {
        if (error) {
          // The subscription is closed; the next request subscribes again.
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
