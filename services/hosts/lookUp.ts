/** The question `look` to a remote's workers: request and reply, answered by any one of them. */
import { headers, type Msg, TimeoutError } from '@nats-io/transport-node';
import { LxstowError } from '../contract/errors.ts';
import { check } from '../contract/schemas.ts';
import { type Nats, respond } from '../nats/connection.ts';
import { isNoResponders, natsFailure } from '../nats/failures.ts';
import { headersOf } from '../nats/messageHeaders.ts';
import { askSubject } from '../nats/subjects.ts';
import { listen } from '../nats/subscriptions.ts';
import { formatTraceparent, type Trace, traceHeader, traceOf } from '../telemetry/trace.ts';

/** Do these exist in the worker's LXD? The answer has only what was asked for. */
export interface LookUpQuestion {
  project: string;
  instance: string;
  pool?: string;
  /** Also ask whether a restored instance could replace this one. */
  replace?: boolean;
  /** Names of profiles. */
  profiles?: string[];
}

export interface LookUpAnswer {
  project: boolean;
  instance: boolean;
  /** If a pool was asked for. */
  pool?: boolean;
  /** Why the instance cannot be replaced, if that was asked for. */
  refusal?: string;
  /** Whether the project is restricted, so that LXD itself enforces its limits. */
  restricted?: boolean;
  /** Whether the project uses the profiles of `default` instead of its own. Older workers do not report this. */
  sharedProfiles?: boolean;
  /** Those of the requested profiles that the project has. */
  profiles?: string[];
}

const queueGroup = 'lxstow';
/** The largest number of profiles, because each costs a request to LXD. */
const mostProfiles = 100;

/** Asks a worker. Undefined if a worker is up but its LXD fails or does not answer in time; throws no-worker if none is up. */
export async function askLookUp(
  nats: Nats,
  remote: string,
  question: LookUpQuestion,
  timeoutMs: number,
  trace: Trace,
): Promise<LookUpAnswer | undefined> {
  const carried = headers();
  carried.set(traceHeader, formatTraceparent(trace));
  try {
    const options = { timeout: timeoutMs, headers: carried };
    const reply = await nats.whileConnected(() =>
      nats.connection.request(askSubject(remote, 'look'), JSON.stringify(question), options),
    );
    const answer = reply.json<LookUpAnswer | { error: string }>();
    return 'error' in answer ? undefined : answer;
  } catch (error) {
    if (error instanceof TimeoutError) return undefined;
    if (isNoResponders(error))
      throw new LxstowError('no-worker', `no worker of host ${remote} is up`, { cause: error });
    throw natsFailure(error, `asking a worker of ${remote}`);
  }
}

/** Answers until the signal aborts. */
export function answerLookUp(
  nats: Nats,
  remote: string,
  look: (question: LookUpQuestion, trace: Trace) => Promise<LookUpAnswer>,
  signal: AbortSignal,
): void {
  const hear = (message: Msg) => {
    const trace = traceOf(headersOf(message).headers?.get(traceHeader));
    answer(message.data, (question) => look(question, trace)).then(
      (found) => respond(nats, message, JSON.stringify(found)),
      (reason: Error) => respond(nats, message, JSON.stringify({ error: reason.message })),
    );
  };
  const listening = listen(nats, askSubject(remote, 'look'), hear, queueGroup);
  signal.addEventListener('abort', () => listening[Symbol.dispose](), { once: true });
}

async function answer(
  data: Uint8Array,
  look: (question: LookUpQuestion) => Promise<LookUpAnswer>,
): Promise<LookUpAnswer> {
  const question = JSON.parse(new TextDecoder().decode(data)) as LookUpQuestion;
  check('names.json#/$defs/projectName', question.project, 'project');
  check('names.json#/$defs/instanceName', question.instance, 'instance');
  if (question.pool !== undefined) check('names.json#/$defs/poolName', question.pool, 'pool');
  const { profiles = [] } = question;
  if (!Array.isArray(profiles) || profiles.length > mostProfiles || profiles.some((name) => typeof name !== 'string'))
    throw new LxstowError('bad-message', `profiles: at most ${mostProfiles} names`);
  return look(question);
}
