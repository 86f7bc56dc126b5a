/** The endpoints for schedules. In their subjects `=all` may stand for a remote, a project, or both. */
import { LxstowError } from '../../contract/errors.ts';
import type {
  ListRequest,
  ScheduleNextRequest,
  SchedulePage,
  SchedulePauseRequest,
  ScheduleRequest,
  ScheduleRunRequest,
  SchedulesPostBody,
} from '../../contract/schemas.ts';
import { all } from '../../nats/subjects.ts';
import { everything, shownRun } from '../../runs/fold.ts';
import type { StoredSchedule } from '../../schedules/scheduleStore.ts';
import type { GatewayParts } from '../gatewayParts.ts';
import {
  createSchedule,
  editSchedule,
  nextInstances,
  nextTimes,
  pauseSchedule,
  removeSchedule,
  resumeSchedule,
  runScheduleNow,
  type ScheduleClient,
  visibleSchedule,
} from '../views/scheduleChanges.ts';
import { coversOnly, showSchedule } from '../views/scheduleView.ts';
import { type Endpoint, firstFitting, isIn, placeIn, type Question } from './endpoint.ts';

const usual = { atOnce: 32, timeoutMs: 20_000, allowsAll: true };
const usualLimit = 100;
const usualCount = 5;

const schedule = 'nats-api.json#/$defs/schedule';
const named = 'nats-api.json#/$defs/scheduleRequest';

export const scheduleEndpoints: Endpoint[] = [
  {
    ...usual,
    name: 'schedules-create',
    subject: 'schedules.create.{remote}.{project}',
    description: 'Makes a schedule of what its selector means in this place. It has no rule that deletes.',
    request: 'http-schedules-post.json',
    answer: schedule,
    run: shown((parts, question, client) => createSchedule(parts, client, wantedIn(question))),
  },
  {
    ...usual,
    name: 'schedules-list',
    subject: 'schedules.list.{remote}.{project}',
    description: 'Schedules that are all of this place, by name, a page of them.',
    request: 'nats-api.json#/$defs/listRequest',
    answer: 'nats-api.json#/$defs/schedulePage',
    run: schedulePage,
  },
  {
    ...usual,
    name: 'schedules-show',
    subject: 'schedules.show.{remote}.{project}',
    description: 'A schedule. As with all that follow, all of it must be of this place.',
    request: named,
    answer: schedule,
    run: shown((parts, question, client) => visibleSchedule(parts, client, nameIn(question))),
  },
  {
    ...usual,
    name: 'schedules-edit',
    subject: 'schedules.edit.{remote}.{project}',
    description: 'Replaces the definition of a schedule; as it is then. It has no rule that deletes.',
    request: 'http-schedules-post.json',
    answer: schedule,
    run: shown((parts, question, client) => editSchedule(parts, client, wantedIn(question))),
  },
  {
    ...usual,
    name: 'schedules-pause',
    subject: 'schedules.pause.{remote}.{project}',
    description: 'Pauses a schedule, until it is resumed or a time has come; as it is then.',
    request: 'nats-api.json#/$defs/schedulePauseRequest',
    answer: schedule,
    run: shown((parts, question, client) => {
      const { name, ...why } = question.body as SchedulePauseRequest;
      return pauseSchedule(parts, client, name, why);
    }),
  },
  {
    ...usual,
    name: 'schedules-resume',
    subject: 'schedules.resume.{remote}.{project}',
    description: 'Resumes a schedule; as it is then. It is due the next time, not at once.',
    request: named,
    answer: schedule,
    run: shown((parts, question, client) => resumeSchedule(parts, client, nameIn(question))),
  },
  {
    ...usual,
    name: 'schedules-run',
    subject: 'schedules.run.{remote}.{project}',
    description: 'Makes a run of a schedule now.',
    request: 'nats-api.json#/$defs/scheduleRunRequest',
    answer: 'run-answers.json#/$defs/run',
    async run(parts, question) {
      const { name, id } = question.body as ScheduleRunRequest;
      const run = await runScheduleNow(parts, clientIn(question), name, id);
      return shownRun(run, everything, new Date()) as object;
    },
  },
  {
    ...usual,
    name: 'schedules-delete',
    subject: 'schedules.delete.{remote}.{project}',
    description: 'Deletes a schedule; as it was. Its runs and backups stay.',
    request: named,
    answer: schedule,
    run: shown((parts, question, client) => removeSchedule(parts, client, nameIn(question))),
  },
  {
    ...usual,
    name: 'schedules-next',
    subject: 'schedules.next.{remote}.{project}',
    description: 'When a schedule is due next, or when each instance is.',
    request: 'nats-api.json#/$defs/scheduleNextRequest',
    answer: 'nats-api.json#/$defs/scheduledTimes',
    async run(parts, question) {
      const { name, instances, count = usualCount } = question.body as ScheduleNextRequest;
      const client = clientIn(question);
      if (!instances) return { times: await nextTimes(parts, client, name, count) };
      const { times, silent } = await nextInstances(parts, client, name);
      const reasons = [...silent].map(([remote, { message }]) => [remote, message]);
      return { times, ...(reasons.length > 0 && { silent: Object.fromEntries(reasons) }) };
    },
  },
];

type Act = (parts: GatewayParts, question: Question, client: ScheduleClient) => Promise<StoredSchedule>;

function shown(act: Act): Endpoint['run'] {
  return async (parts, question) => showSchedule(parts, await act(parts, question, clientIn(question)));
}

async function schedulePage(parts: GatewayParts, question: Question): Promise<SchedulePage> {
  const { limit = usualLimit, after = '' } = question.body as ListRequest;
  const { may } = clientIn(question);
  const behind = (await parts.schedules.list()).filter((each) => each.schedule.name > after && may(each.schedule));
  const page = await Promise.all(behind.slice(0, limit).map((each) => showSchedule(parts, each)));
  const schedules = firstFitting(page, (each) => each, question.room);
  const last = schedules.length < behind.length ? schedules.at(-1) : undefined;
  return { schedules, ...(last && { next: last.name }) };
}

/** A schedule is of a place if all that it is about is. */
function clientIn(question: Question): ScheduleClient {
  const { address, requestor, trace } = question;
  const place = isIn(question);
  const may = coversOnly({
    ...(address.remote !== all && { remotes: place.remote }),
    ...(address.project !== all && { projects: place.project }),
  });
  return { requestor, restricted: false, may, trace };
}

function nameIn({ body }: Question): string {
  return (body as ScheduleRequest).name;
}

/** The schedule, limited to the place in the subject. Throws forbidden when it names others. */
function wantedIn(question: Question): SchedulesPostBody {
  const { name, definition } = question.body as SchedulesPostBody;
  // Who may publish schedules may have backups made, not deleted.
  if (definition.keep) throw new LxstowError('forbidden', 'keep: a schedule over NATS deletes nothing');
  const { selector = {} } = definition;
  const bounded = { ...selector, ...placeIn(question, selector) };
  return { name, definition: { ...definition, ...(Object.keys(bounded).length > 0 && { selector: bounded }) } };
}
