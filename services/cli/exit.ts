/**
 * Exit statuses, those of sysexits.h where it has one, and the error that carries one. docs/cli.md lists them for users. The status of a command that followed
 * operations to their end: `exitOfAll` in client/following/follow.ts.
 */
import { LxstowError } from '../contract/errors.ts';

export const exits = {
  ok: 0,
  /** An operation failed, or several failed for more than one reason. */
  failed: 1,
  /** The command line, or the request, is wrong. */
  usage: 64,
  /** There is no such instance, backup, operation, … */
  notFound: 66,
  /** The gateway, or what it needs, is away. */
  unavailable: 69,
  internal: 70,
  /** Something exists already, or is in use. */
  conflict: 73,
  /** The output cannot be written, or a file cannot be read. */
  io: 74,
  /** Too many requests: try again later. */
  later: 75,
  /** The answer does not come from a gateway of lxstow. */
  protocol: 76,
  /** Not trusted, or not allowed. */
  refused: 77,
  /** The configuration, or a certificate, cannot be used. */
  config: 78,
  interrupted: 130,
} as const;

export type Exit = (typeof exits)[keyof typeof exits];

/** The error of a client command. `hint` says what to do, if the message does not. */
export class CliError extends Error {
  override readonly name = 'CliError';
  readonly exit: Exit;
  readonly hint: string | undefined;

  constructor(exit: Exit, message: string, options: { hint?: string | undefined; cause?: unknown } = {}) {
    super(message, options);
    this.exit = exit;
    this.hint = options.hint;
  }
}

/** Replaces the names of the body's fields in a gateway's error by those of options. */
export function inOptions(error: unknown, options: Record<string, string>): unknown {
  if (!(error instanceof CliError)) return error;
  const [head = '', field = ''] = /^body: (\w+): /.exec(error.message) ?? [];
  const option = options[field];
  if (option === undefined) return error;
  return new CliError(error.exit, `${option}: ${error.message.slice(head.length)}`, { hint: error.hint, cause: error });
}

export function exitOf(thrown: unknown): Exit {
  if (thrown instanceof CliError) return thrown.exit;
  if (!(thrown instanceof LxstowError) || thrown.code === 'internal') return exits.internal;
  if (thrown.code === 'bad-config') return exits.config;
  if (thrown.code === 'stopping') return exits.interrupted;
  return exitOfStatus(thrown.status);
}

export function exitOfStatus(status: number): Exit {
  switch (status) {
    case 400:
    case 405:
    case 413:
      return exits.usage;
    case 401:
    case 403:
      return exits.refused;
    case 404:
      return exits.notFound;
    case 409:
    case 412:
      return exits.conflict;
    case 429:
      return exits.later;
    case 502:
    case 503:
    case 504:
      return exits.unavailable;
    default:
      return exits.failed;
  }
}
