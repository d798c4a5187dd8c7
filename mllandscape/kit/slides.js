// The keys of a presenter turn the slides; without this script they scroll.
const slides = [...document.querySelectorAll('section')];
const distance = place => Math.abs(slides[place].getBoundingClientRect().top);
const here = () => slides.reduce((best, _, place) => distance(place) < distance(best) ? place : best, 0);
const steps = {ArrowRight: 1, ArrowDown: 1, PageDown: 1, ' ': 1, Enter: 1,
  ArrowLeft: -1, ArrowUp: -1, PageUp: -1, Backspace: -1, Home: -1e9, End: 1e9};
addEventListener('keydown', event => {
  if (!(event.key in steps) || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  const step = event.key === ' ' && event.shiftKey ? -1 : steps[event.key];
  const slide = slides[Math.max(0, Math.min(slides.length - 1, here() + step))];
  slide.scrollIntoView();
  history.replaceState(null, '', '#' + slide.id);
});
