/** The model of restores (restoreModel.ts): all but the replacing of what runs. */
import { model } from './restoreModel.ts';

model('a model of restores', [
  { name: 'a restore', body: {}, original: 'elsewhere' },
  { name: 'a restore that starts', body: { start: true }, original: 'elsewhere', from: 'POST /1.0/instances/' },
  {
    name: 'a replace of what is stopped',
    body: { replace: true },
    original: 'stopped',
    from: 'PATCH /1.0/instances/c1',
  },
  // From where it has seen that there is none: what gets the name later is not replaced.
  {
    name: 'a replace of what is not there',
    body: { replace: true },
    original: 'elsewhere',
    from: 'GET /1.0/projects/',
  },
]);
