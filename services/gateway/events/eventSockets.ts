/** The websockets of GET /1.0/events: each event is serialised once, and sent to every socket that wants it. */
import { type Duplex, finished } from 'node:stream';
import type { WebSocket } from 'ws';
import type { Operation } from '../../contract/schemas.ts';
import type { Feed } from '../../nats/bucket/feed.ts';
import type { ProgressFeed } from '../../operations/progressFeed.ts';
import type { StoredRun } from '../../runs/runStore.ts';
import type { Log } from '../../telemetry/logger.ts';
import { Shares } from '../http/shares.ts';
import { type Event, type EventType, eventsOf, loggingEvent, runEvent } from './lxdEvents.ts';

/** What a socket gets. */
interface Subscription {
  types: ReadonlySet<EventType>;
  /** Whether the client wants events of this project, and may see them. */
  wants(project: string): boolean;
  /** Checked at intervals: false closes the socket. */
  trusted(): Promise<boolean>;
  /** The connection that the socket is on. */
  connection: Duplex;
  /** For the log. */
  client: string;
}

/** What there are events of. */
interface EventSources {
  feed: Pick<Feed<Operation>, 'onChange'>;
  progress: Pick<ProgressFeed, 'onProgress'>;
  runFeed: Pick<Feed<StoredRun>, 'onChange'>;
  log: Log;
}

interface Subscriber extends Subscription {
  socket: WebSocket;
  answered: boolean;
  /** Runs while the socket has more than muchUnreadBytes to read. */
  patience?: NodeJS.Timeout | undefined;
}

interface Message {
  event: Event;
  /** The serialised event, the same for all sockets; made when the first socket wants it. */
  data?: Buffer;
}

/** As in LXD. A socket that has not answered a ping when the next one is due is dead. */
const pingEveryMs = 10_000;
/** About a thousand events. A socket with more unread bytes has a limited time to read them; a burst may exceed this for a moment. */
const muchUnreadBytes = 1024 * 1024;
const patienceMs = 2000;
/** A socket with more unread bytes is cut off at once. */
const mostUnreadBytes = 16 * muchUnreadBytes;
/** Log lines per second; further lines are left out and counted. */
const mostLinesPerSecond = 200;
const mostSockets = 1000;
const mostSocketsPerClient = 250;
/** A write to TLS costs more than its content. So events are collected and sent together; the more sockets there are, the longer they wait. */
const waitMsPerSubscriber = 0.2;
const longestWaitMs = 50;
const unreading = 'does not read its events';
const closeGraceMs = 1000;
const goingAway = 1001;

export class EventSockets implements AsyncDisposable {
  readonly #log: Log;
  readonly #subscribers = new Set<Subscriber>();
  readonly #timer: NodeJS.Timeout;
  readonly #shares = new Shares({
    ...{ most: mostSockets, mostPerClient: mostSocketsPerClient },
    full: 'too many event sockets are open at this gateway: use another gateway, or try later',
    ownFull: `${mostSocketsPerClient} event sockets of this client are open at this gateway: close some, or use another gateway`,
  });
  #unsent: Message[] = [];
  #second = 0;
  #lines = 0;

  constructor({ feed, progress, runFeed, log }: EventSources) {
    this.#log = log;
    const sendAll = (events: () => Event[]) => {
      if (this.#subscribers.size === 0) return;
      for (const event of events()) this.#queue(event);
    };
    feed.onChange((operation) => sendAll(() => eventsOf(operation)));
    progress.onProgress((operation) => sendAll(() => eventsOf(operation)));
    runFeed.onChange(({ run }) => sendAll(() => [runEvent(run)]));
    this.#timer = setInterval(() => this.#ping(), pingEveryMs).unref();
  }

  /** Counts a client's connection as one for events, until it ends. Throws gateway-busy if the gateway or the client has as many as it may. */
  admit(client: string, connection: Duplex): void {
    const share = this.#shares.begin(client);
    finished(connection, () => share[Symbol.dispose]());
  }

  /** Sends the socket all events from now on. */
  add(socket: WebSocket, subscription: Subscription): void {
    const subscriber = { ...subscription, socket, answered: true };
    this.#subscribers.add(subscriber);
    socket.on('pong', () => {
      subscriber.answered = true;
    });
    socket.on('error', (error) => this.#log.debug('event socket failed', { client: subscription.client, error }));
    socket.on('close', () => this.#forget(subscriber));
  }

  /** Sends a line of the log. */
  line(line: Record<string, unknown>): void {
    const second = Math.floor(performance.now() / 1000);
    if (second !== this.#second) {
      const left = this.#lines - mostLinesPerSecond;
      [this.#second, this.#lines] = [second, 0];
      if (left > 0) this.#queue(loggingEvent({ level: 'warn', message: 'log lines left out', count: left }));
    }
    if (++this.#lines <= mostLinesPerSecond) this.#queue(loggingEvent(line));
  }

  #queue(event: Event): void {
    if (this.#subscribers.size === 0 || this.#unsent.push({ event }) > 1) return;
    setTimeout(() => this.#flush(), Math.min(longestWaitMs, this.#subscribers.size * waitMsPerSubscriber)).unref();
  }

  #flush(): void {
    const messages = this.#unsent;
    this.#unsent = [];
    for (const subscriber of this.#subscribers) {
      const { connection } = subscriber;
      connection.cork();
      for (const message of messages) if (this.#subscribers.has(subscriber)) this.#send(subscriber, message);
      connection.uncork();
    }
  }

  #send(subscriber: Subscriber, message: Message): void {
    const { socket, types, wants } = subscriber;
    const { projects, ...event } = message.event;
    const about = projects ?? (event.project === undefined ? [] : [event.project]);
    if (!types.has(event.type) || !about.every((project) => wants(project))) return;
    message.data ??= Buffer.from(JSON.stringify(event));
    const { data } = message;
    const unread = socket.bufferedAmount + data.length;
    if (unread > mostUnreadBytes) this.#cut(subscriber, unreading);
    else socket.send(data, { binary: false }, unread > muchUnreadBytes ? this.#hurry(subscriber) : undefined);
  }

  /** Cuts a socket off unless the returned function is called in time. */
  #hurry(subscriber: Subscriber): (() => void) | undefined {
    if (subscriber.patience) return undefined;
    subscriber.patience = setTimeout(() => this.#cut(subscriber, unreading), patienceMs).unref();
    return () => {
      clearTimeout(subscriber.patience);
      subscriber.patience = undefined;
    };
  }

  #ping(): void {
    for (const subscriber of this.#subscribers) {
      if (!subscriber.answered) {
        this.#cut(subscriber, 'does not answer pings');
        continue;
      }
      subscriber.answered = false;
      subscriber.socket.ping();
      subscriber.trusted().then(
        (trusted) => trusted || this.#cut(subscriber, 'is not trusted any more'),
        (error) => this.#log.error('trust in an event socket not checked', { client: subscriber.client, error }),
      );
    }
  }

  #cut(subscriber: Subscriber, why: string): void {
    // Forget the socket before logging, because the log line is an event, too.
    this.#forget(subscriber);
    subscriber.socket.terminate();
    this.#log.warn(`event socket cut off: it ${why}`, { client: subscriber.client });
  }

  #forget(subscriber: Subscriber): void {
    this.#subscribers.delete(subscriber);
    clearTimeout(subscriber.patience);
  }

  /** Closes all sockets; those that do not answer are cut off. */
  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer);
    this.#flush();
    const closed = [...this.#subscribers].map(
      ({ socket }) =>
        new Promise<void>((resolve) => {
          const timer = setTimeout(() => socket.terminate(), closeGraceMs);
          socket.once('close', () => {
            clearTimeout(timer);
            resolve();
          });
          socket.close(goingAway, 'the gateway stops');
        }),
    );
    await Promise.all(closed);
  }
}
