/** A question that can be asked over NATS, and how it is answered. */
import type { Address, SchemaName } from '../../contract/schemas.ts';
import type { Trace } from '../../telemetry/trace.ts';
import type { GatewayParts } from '../gatewayParts.ts';

export interface Question {
  /** From the subject; `instance` is empty where the subject has none, remote and project may be `all` where the endpoint allows that. */
  address: Address;
  /** The request, which matches its schema. */
  body: unknown;
  /** Bytes that an answer may have. */
  room: number;
  /** Aborts when the answer would come too late. */
  signal: AbortSignal;
  trace: Trace;
}

export interface Endpoint {
  /** As `nats micro` shows it. */
  name: string;
  /** Behind `lxstow.api.`; each name in braces is one token. */
  subject: string;
  description: string;
  request: SchemaName;
  answer: SchemaName;
  /** Whether `=all` may stand in the subject for a remote or project. */
  allowsAll?: boolean;
  /** More requests than this at a time are refused by a gateway. */
  atOnce: number;
  /** How long an answer may take. */
  timeoutMs: number;
  run(parts: GatewayParts, question: Question): Promise<object>;
}

/** Of endpoints that wait for something to end. */
export const longWait = { atOnce: 1000, timeoutMs: 70_000 };
export const usualWaitSeconds = 30;
