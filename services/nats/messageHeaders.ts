/** Reads the headers of messages that others may have published. */
import type { StoredMsg } from '@nats-io/jetstream';
import type { Msg, MsgHdrs } from '@nats-io/transport-node';
import { LxstowError } from '../contract/errors.ts';

/**
 * The message's headers; `fault` if the client cannot decode them. NATS stores and delivers any, for example with a blank in a name. The client decodes them
 * when they are read, and throws; in a subscription's callback, that ends the connection.
 */
export function headersOf(message: Pick<Msg, 'headers'> | Pick<StoredMsg, 'header'>): {
  headers?: MsgHdrs | undefined;
  fault?: LxstowError;
} {
  try {
    return { headers: 'header' in message ? message.header : message.headers };
  } catch (error) {
    const why = `the message's headers cannot be read: ${(error as Error).message}`;
    return { fault: new LxstowError('bad-message', why, { cause: error }) };
  }
}
