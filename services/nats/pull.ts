/** A pull from a consumer that a signal ends. */
import { addAbortListener } from 'node:events';
import type { Consumer, FetchMessages, JsMsg } from '@nats-io/jetstream';

/** Yields the messages of one pull, until it is complete or expires, or `stop` aborts. Throws the client's errors. */
export async function* pull(
  consumer: Consumer,
  options: FetchMessages,
  stop: AbortSignal,
): AsyncGenerator<JsMsg, undefined> {
  const messages = await consumer.fetch(options);
  using _listener = addAbortListener(stop, () => messages.stop());
  yield* messages;
}
