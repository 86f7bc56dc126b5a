/** A pull from a consumer that a signal ends. */
import type { Consumer, FetchMessages, JsMsg } from '@nats-io/jetstream';

/** Yields the messages of one pull, until it is complete or expires, or `stop` aborts. Throws the client's errors. */
export async function* pull(
  consumer: Consumer,
  options: FetchMessages,
  stop: AbortSignal,
): AsyncGenerator<JsMsg, undefined> {
  const messages = await consumer.fetch(options);
  const end = () => messages.stop();
  stop.addEventListener('abort', end, { once: true });
  if (stop.aborted) end();
  try {
    yield* messages;
  } finally {
    stop.removeEventListener('abort', end);
  }
}
